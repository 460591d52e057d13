from sekisho.core.text import *
