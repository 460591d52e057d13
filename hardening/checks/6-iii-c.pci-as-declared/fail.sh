#!/bin/sh
# A function that the machine is made of was taken off the bus.
set -eu
for function in /sys/bus/pci/devices/*; do
    case $(cat "$function/class") in
    0x0101*) # the disk controller of the board, which nothing uses here
        echo 1 >"$function/remove"
        exit 0 ;;
    esac
done
echo "no idle disk controller here" >&2
exit 1
