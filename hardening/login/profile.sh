# Written by Sekisho. An idle shell ends after a quarter of an hour.
TMOUT=900
readonly TMOUT
export TMOUT
