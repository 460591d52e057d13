from playbooks.module_utils.sekisho_handles import *
