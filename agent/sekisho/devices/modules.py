"""Kernel modules that must not load: the one list behind modprobe.d, the probe and the checks.

``blacklist`` alone stops only loading by alias, so every module also gets an ``install`` command
that fails. kmod passes that command over for a module with soft dependencies (libkmod's
``ignorecmd``; seen: nfsd, ksmbd, f2fs, bcachefs loaded all the same), so each is given an empty
one, and the first counts. ``modprobe --ignore-install`` and ``insmod`` still work for root, which
is why the checks ask modprobe itself, and look at what is loaded. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Group:
    """Modules that open one way: ``why`` in words, ``area`` names the file and the role."""

    area: str  # devices | kernel
    why: str
    modules: tuple[str, ...]


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


#: Group → modules. Never a module that the enclave itself needs: see `NEEDED`.
GROUPS: Mapping[str, Group] = {
    "usb-storage": Group(
        "devices",
        "USB sticks and disks, bulk-only and UAS, and the odd ones with drivers of their own",
        _names(
            """usb_storage uas ums_alauda ums_cypress ums_datafab ums_eneub6250 ums_freecom
            ums_isd200 ums_jumpshot ums_karma ums_onetouch ums_realtek ums_sddr09 ums_sddr55
            ums_usbat microtek mdc800"""
        ),
    ),
    "firewire": Group(
        "devices",
        "FireWire disks, and its direct access to memory",
        _names("firewire_core firewire_ohci firewire_sbp2 firewire_net nosy sbp_target"),
    ),
    "thunderbolt": Group(
        "devices", "Thunderbolt and USB4: PCI Express outside the box", _names("thunderbolt")
    ),
    "card-readers": Group(
        "devices",
        "SD, MMC and memory-stick readers",
        _names(
            """mmc_block mmc_core sdhci sdhci_pci sdhci_acpi cqhci rtsx_pci_sdmmc rtsx_usb_sdmmc
            rtsx_usb_ms memstick mspro_block jmb38x_ms r592 tifm_sd tifm_ms ushc vub300 wbsd
            toshsd via_sdmmc cb710_mmc alcor sdricoh_cs"""
        ),
    ),
    "optical": Group(
        "devices",
        "optical drives and the virtual ones of management boards, and their file systems",
        _names("sr_mod cdrom isofs udf"),
    ),
    "floppy": Group("devices", "floppy drives", _names("floppy")),
    "tape": Group("devices", "tape drives and media changers", _names("st ch")),
    "network-disks": Group(
        "devices",
        "disks that come over the network",
        _names(
            """nbd rbd drbd aoe ublk_drv iscsi_tcp libiscsi libiscsi_tcp scsi_transport_iscsi
            ib_iser ib_srp nvme_tcp nvme_rdma nvme_fc nvme_fabrics fcoe libfcoe"""
        ),
    ),
    "disks-given-away": Group(
        "devices",
        "this machine's disks offered to others",
        _names(
            """target_core_mod iscsi_target_mod nvmet nvmet_tcp nvmet_rdma nvmet_fc ksmbd nfsd
            usb_f_mass_storage g_mass_storage usb_f_fs g_ffs gadgetfs"""
        ),
    ),
    "usb-over-network": Group(
        "devices",
        "USB devices of other machines",
        _names("usbip_core usbip_host usbip_vudc vhci_hcd"),
    ),
    "pretended-devices": Group(
        "devices",
        "USB gadgets and disks pretended in software",
        _names(
            """dummy_hcd libcomposite g_serial g_ether u_serial u_ether u_audio usb_f_acm
            usb_f_serial usb_f_obex usb_f_ecm usb_f_ecm_subset usb_f_eem usb_f_ncm usb_f_rndis
            usb_f_hid usb_f_printer usb_f_midi usb_f_phonet usb_f_ss_lb usb_f_uac1 usb_f_uac2
            usb_f_uvc scsi_debug"""
        ),
    ),
    "image-disks": Group(
        "devices",
        "files, memory and other devices pretended to be disks",
        _names("loop brd null_blk pktcdvd mtdblock mtdram block2mtd phram slram rnbd_client"),
    ),
    "usb-network": Group(
        "devices",
        "telephones and adapters that become a network card",
        _names(
            """usbnet cdc_ether cdc_ncm cdc_mbim cdc_eem cdc_subset cdc_phonet rndis_host
            rndis_wlan ipheth qmi_wwan huawei_cdc_ncm hso sierra_net lg_vl600 kalmia zaurus plusb
            asix ax88179_178a aqc111 r8152 r8153_ecm rtl8150 smsc75xx smsc95xx lan78xx dm9601
            pegasus kaweth catc mcs7830 net1080 gl620a int51x1 sr9700 sr9800 ch9200 cx82310_eth"""
        ),
    ),
    "usb-other": Group(
        "devices",
        "USB printers, modems, serial converters and instruments",
        _names("usblp cdc_acm cdc_wdm usbserial usbtmc usb_wwan"),
    ),
    "bluetooth": Group(
        "devices",
        "Bluetooth: file transfer, keyboards, networks",
        _names(
            """bluetooth btusb btintel btrtl btbcm btmtk btsdio hci_uart hci_vhci bnep rfcomm hidp
            bluetooth_6lowpan"""
        ),
    ),
    "parallel-port": Group(
        "devices", "the parallel port and what hangs on it", _names("parport parport_pc lp ppdev")
    ),
    "card-slots": Group(
        "devices", "PC Card and CardBus slots", _names("pcmcia pcmcia_core yenta_socket")
    ),
    "network-file-systems": Group(
        "devices",
        "directories that lie on other machines",
        _names(
            """nfs nfsv2 nfsv3 nfsv4 cifs ceph 9p 9pnet 9pnet_virtio afs kafs coda orangefs gfs2
            ocfs2 dlm vboxsf cuse"""
        ),
    ),
    "wireless": Group(
        "kernel",
        "wireless networks and near-field communication",
        _names("cfg80211 mac80211 nfc nci hci nfc_digital ieee802154 mac802154"),
    ),
    "protocols": Group(
        "kernel",
        "network protocols nobody uses here, each a door into the kernel",
        _names(
            """sctp dccp dccp_ipv4 dccp_ipv6 rds rds_tcp tipc ax25 netrom rose x25 appletalk atm
            can can_raw can_bcm can_isotp can_j1939 llc2 lapb phonet kcm smc l2tp_core l2tp_ppp
            l2tp_ip batman_adv hsr qrtr n_hdlc n_gsm slip ppp_generic pppoe pptp"""
        ),
    ),
    "file-systems": Group(
        "kernel",
        "file systems nobody uses here: a prepared image attacks their parsers",
        _names(
            """cramfs freevxfs jffs2 hfs hfsplus squashfs exfat ntfs3 reiserfs jfs adfs affs befs
            bfs efs erofs f2fs hpfs minix nilfs2 omfs qnx4 qnx6 romfs sysv ubifs ufs zonefs
            ecryptfs bcachefs"""
        ),
    ),
}

#: What the enclave stands on; a list that blocks one of these is refused (esp4: the IP-VPN).
NEEDED = frozenset(
    _names(
        """esp4 esp6 ah4 ah6 xfrm_user xfrm_algo xfrm4_tunnel ipcomp nf_tables nft_ct nf_conntrack
        nfnetlink virtio virtio_pci virtio_blk virtio_net ext4 jbd2 crc32c usbcore usbhid hid
        hid_generic xhci_hcd xhci_pci ehci_hcd ehci_pci uhci_hcd ohci_hcd nvme nvme_core ahci
        libata sd_mod scsi_mod dm_mod dm_crypt aesni_intel af_packet tun wireguard efivarfs vfat
        overlay autofs4 pci_stub"""
    )
)


def canonical(name: str) -> str:
    """Return a module's name as the kernel writes it: dashes are underscores."""
    return name.replace("-", "_")


def blocked(area: str | None = None) -> tuple[str, ...]:
    """Return every module of the list (of one area), sorted."""
    return tuple(
        sorted(
            {
                name
                for group in GROUPS.values()
                if area is None or group.area == area
                for name in group.modules
            }
        )
    )


def render(area: str) -> str:
    """Return the modprobe.d file of one area (``devices`` or ``kernel``)."""
    lines = [
        "# Made by `python -m sekisho.devices.modules` from its list; a test compares them.",
        "# Never esp4 or esp6: the IP-VPN needs them.",
    ]
    for name, group in GROUPS.items():
        if group.area != area:
            continue
        lines += ["", f"# {name}: {group.why}"]
        for module in group.modules:
            lines += [
                f"blacklist {module}",
                f"install {module} /bin/false",
                f"softdep {module} pre:",
            ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    sys.stdout.write(render(sys.argv[1]))
