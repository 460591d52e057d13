"""Raw USB descriptors into values. Pure, strict: what does not parse to the last byte is refused.

The kernel gives a device's descriptors as it read them before anything was authorised: sysfs
``descriptors`` holds the device descriptor, then every configuration with all its interfaces and
alternate settings (USB 2.0 specification, chapter 9.6). Deciding by all of them, not by the active
configuration, is what keeps a storage interface from hiding in a second one.
"""

from __future__ import annotations

from dataclasses import dataclass

DEVICE_LENGTH = 18
CONFIGURATION_LENGTH = 9
INTERFACE_LENGTH = 9
_DEVICE, _CONFIGURATION, _INTERFACE = 1, 2, 4
#: sysfs gives at most this many bytes (the kernel's limits on configurations and their size).
MAX_BYTES = DEVICE_LENGTH + 8 * 65535


class DescriptorError(ValueError):
    """The bytes are not the descriptors of one USB device; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Descriptors:
    """What a device says of itself.

    Attributes:
        vendor: idVendor, four lower-case hex digits.
        product: idProduct, four lower-case hex digits.
        device_class: bDeviceClass, two lower-case hex digits.
        interfaces: ``cc:ss:pp`` of every interface and alternate setting of every configuration.

    """

    vendor: str
    product: str
    device_class: str
    interfaces: frozenset[str]


def parse_descriptors(raw: bytes) -> Descriptors:
    """Return the descriptors; `DescriptorError` unless every byte is accounted for."""
    if len(raw) < DEVICE_LENGTH or len(raw) > MAX_BYTES:
        raise DescriptorError(f"{len(raw)} bytes: expected {DEVICE_LENGTH} to {MAX_BYTES}")
    if raw[0] != DEVICE_LENGTH or raw[1] != _DEVICE:
        raise DescriptorError("byte 0: no device descriptor")
    configurations = raw[17]
    if configurations == 0:
        raise DescriptorError("byte 17: no configuration")
    interfaces: set[str] = set()
    offset = DEVICE_LENGTH
    for _ in range(configurations):
        offset = _configuration(raw, offset, interfaces)
    if offset != len(raw):
        raise DescriptorError(f"byte {offset}: {len(raw) - offset} bytes after the last one")
    return Descriptors(
        vendor=f"{raw[9]:02x}{raw[8]:02x}",
        product=f"{raw[11]:02x}{raw[10]:02x}",
        device_class=f"{raw[4]:02x}",
        interfaces=frozenset(interfaces),
    )


def _configuration(raw: bytes, start: int, interfaces: set[str]) -> int:
    if (
        len(raw) - start < CONFIGURATION_LENGTH
        or raw[start] != CONFIGURATION_LENGTH
        or raw[start + 1] != _CONFIGURATION
    ):
        raise DescriptorError(f"byte {start}: no configuration descriptor")
    end = start + int.from_bytes(raw[start + 2 : start + 4], "little")
    if end < start + CONFIGURATION_LENGTH or end > len(raw):
        raise DescriptorError(f"byte {start}: the configuration ends outside what was read")
    numbers: set[int] = set()
    offset = start + CONFIGURATION_LENGTH
    while offset < end:
        length = raw[offset]
        if length < 2 or offset + length > end:
            raise DescriptorError(f"byte {offset}: a descriptor of length {length}")
        kind = raw[offset + 1]
        if kind in (_DEVICE, _CONFIGURATION):
            raise DescriptorError(f"byte {offset}: a descriptor of kind {kind} inside another")
        if kind == _INTERFACE:
            # A longer one is refused too: the kernel reads nine bytes, others might read more.
            if length != INTERFACE_LENGTH:
                raise DescriptorError(f"byte {offset}: an interface of length {length}")
            numbers.add(raw[offset + 2])
            interfaces.add(":".join(f"{byte:02x}" for byte in raw[offset + 5 : offset + 8]))
        offset += length
    if len(numbers) != raw[start + 4] or not numbers:
        raise DescriptorError(
            f"byte {start}: {raw[start + 4]} interfaces announced, {len(numbers)} described"
        )
    return end
