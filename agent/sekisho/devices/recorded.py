"""USB devices of a udev database as the site's list is compared with them. Pure.

A dump tells less than the machine: interfaces come from the raw descriptors where it holds them,
else from what udev read of them (``ID_USB_INTERFACES``, every configuration) together with the
interfaces of the configuration in use. What is not known or contradicts itself stays unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from sekisho.devices.export_db import Record
from sekisho.devices.policy import MAX_INTERFACES, Device, device_from_sysfs

_PRODUCT = re.compile(r"([0-9a-f]{1,4})/([0-9a-f]{1,4})/[0-9a-f]{1,4}", re.ASCII)
_TYPE = re.compile(r"([0-9]{1,3})/([0-9]{1,3})/([0-9]{1,3})", re.ASCII)
_PACKED = re.compile(r":([0-9a-f]{6}:)+", re.ASCII)
_ALIAS = re.compile(r"usb:v.*ic([0-9A-F]{2})isc([0-9A-F]{2})ip([0-9A-F]{2})in[0-9A-F]{2}", re.ASCII)
#: The kernel's name of a USB device: a controller, or a bus and the chain of ports.
USB_NAME = re.compile(r"usb[0-9]+|[1-9][0-9]*-[0-9.]+", re.ASCII)
_SYSNAME = re.compile(r"[1-9][0-9]*-([1-9][0-9]*(\.[1-9][0-9]*)*)", re.ASCII)


def device_of(record: Record, children: Iterable[Record]) -> tuple[Device, str]:
    """Return the device of a usb_device record, and where its interfaces are known from.

    Args:
        record: the device.
        children: the records of its interfaces.

    Returns:
        The device, and ``descriptors``, ``udev``, ``interfaces in use``, or "" when unknown.

    """
    unknown = Device(record.name, None, None, None, None)
    vendor, product = _identity(record)
    in_use = [_interface(child) for child in children]
    if record.garbled or vendor is None or None in in_use:
        return unknown, ""
    told = frozenset(code for code in in_use if code is not None)
    found = _SYSNAME.fullmatch(record.name)
    port = found[1] if found else None
    serial = record.attributes.get("serial", record.fields.get("ID_SERIAL_SHORT"))
    if record.descriptors is not None:
        device = device_from_sysfs(record.name, {"devpath": port or ""}, _bytes(record.descriptors))
        agrees = (device.vendor, device.product) == (vendor, product)
        if not agrees or device.interfaces is None or not told <= device.interfaces:
            return unknown, ""
        return _with(device, serial), "descriptors"
    packed = record.fields.get("ID_USB_INTERFACES")
    source = "udev" if packed else "interfaces in use"
    if packed:
        listed = _packed(packed)
        if listed is None:
            return unknown, ""
        told |= listed
    kind = _numbers(record.fields.get("TYPE", "0/0/0"))
    if not told or kind is None or (serial and "\\" in serial):
        return unknown, ""
    return Device(record.name, vendor, product, serial, port, kind[:2], told), source


def _with(device: Device, serial: str | None) -> Device:
    """Return the device with a serial number; one with an escape in it is not known."""
    return Device(
        sysname=device.sysname,
        vendor=device.vendor,
        product=device.product,
        serial=None if serial is None or "\\" in serial else serial,
        port=device.port or None,
        device_class=device.device_class,
        interfaces=device.interfaces,
    )


def _identity(record: Record) -> tuple[str | None, str | None]:
    """Return vendor and product, the kernel's word; (None, None) where anything contradicts it."""
    found = _PRODUCT.fullmatch(record.fields.get("PRODUCT", ""))
    if found is None:
        return None, None
    vendor, product = found[1].rjust(4, "0"), found[2].rjust(4, "0")
    said = (
        (record.fields.get("ID_VENDOR_ID"), vendor),
        (record.fields.get("ID_MODEL_ID"), product),
        (record.attributes.get("idVendor"), vendor),
        (record.attributes.get("idProduct"), product),
    )
    if any(other is not None and other != ours for other, ours in said):
        return None, None
    return vendor, product


def _interface(child: Record) -> str | None:
    """Return ``cc:ss:pp`` of an interface's record, or None when it does not say."""
    if child.garbled:
        return None
    if "INTERFACE" in child.fields:
        return _numbers(child.fields["INTERFACE"])
    found = _ALIAS.fullmatch(child.fields.get("MODALIAS", ""))
    return ":".join(found.groups()).lower() if found else None


def _numbers(text: str) -> str | None:
    """Return ``3/1/2`` as ``03:01:02``; None for anything else."""
    found = _TYPE.fullmatch(text)
    if found is None or any(int(part) > 0xFF for part in found.groups()):
        return None
    return ":".join(f"{int(part):02x}" for part in found.groups())


def _packed(text: str) -> frozenset[str] | None:
    """Return udev's ``:030101:080650:`` as triples; None when garbled, or long enough to be cut."""
    if not _PACKED.fullmatch(text):
        return None
    parts = text.strip(":").split(":")
    if len(parts) >= MAX_INTERFACES:
        return None
    return frozenset(f"{part[:2]}:{part[2:4]}:{part[4:]}" for part in parts)


def _bytes(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text)
    except ValueError:
        return None
