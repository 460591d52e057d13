from sekisho.core.safe_files import *
