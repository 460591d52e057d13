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
            ib_iser ib_srp nvme_tcp nvme_rdma nvme_fc nvme_fabrics fcoe libfcoe rnbd_client
            be2iscsi bnx2i cxgb3i cxgb4i qedi qla4xxx"""
        ),
    ),
    "disks-given-away": Group(
        "devices",
        "this machine's disks offered to others",
        _names(
            """target_core_mod iscsi_target_mod nvmet nvmet_tcp nvmet_rdma nvmet_fc nvme_loop
            ksmbd nfsd rnbd_server usb_f_mass_storage usb_f_tcm g_mass_storage usb_f_fs g_ffs
            gadgetfs"""
        ),
    ),
    "usb-over-network": Group(
        "devices",
        "USB devices of other machines",
        _names("usbip_core usbip_host usbip_vudc vhci_hcd"),
    ),
    "pretended-devices": Group(
        "devices",
        "USB gadgets and disks pretended in software or in memory",
        _names(
            """dummy_hcd libcomposite g_serial g_ether u_serial u_ether u_audio usb_f_acm
            usb_f_serial usb_f_obex usb_f_ecm usb_f_ecm_subset usb_f_eem usb_f_ncm usb_f_rndis
            usb_f_hid usb_f_printer usb_f_midi usb_f_phonet usb_f_ss_lb usb_f_uac1 usb_f_uac2
            usb_f_uvc usb_f_midi2 g_acm_ms g_audio g_cdc g_dbgp g_hid g_midi g_multi g_ncm
            g_nokia g_printer g_webcam g_zero raw_gadget scsi_debug nandsim
            brd null_blk pktcdvd mtdblock mtdram block2mtd phram slram"""
        ),
    ),
    "gadget-ports": Group(
        "devices",
        "drivers that turn a USB port of this machine into a device's",
        _names(
            """udc_core dwc2 dwc2_pci dwc3 dwc3_pci dwc3_haps cdns3 cdns3_pci_wrap cdnsp_udc_pci
            ci_hdrc ci_hdrc_pci musb_hdrc net2280 net2272 goku_udc pch_udc amd5536udc_pci
            snps_udc_core bdc max3420_udc"""
        ),
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
        _names(
            """usblp cdc_acm cdc_wdm usbserial usbtmc usb_wwan usblcd adutux iowarrior
            legousbtower ldusb yurex usbtest ezusb appledisplay udl gud"""
        ),
    ),
    "sound-and-video": Group(
        "devices",
        "sound and video, USB or not: what is played can be recorded outside",
        _names(
            """soundcore snd snd_pcm snd_usb_audio snd_usbmidi_lib snd_hda_intel snd_aloop uvcvideo
            videodev"""
        ),
    ),
    "wwan": Group(
        "devices",
        "modems of mobile networks on PCI Express and USB",
        _names(
            """wwan wwan_hwsim mhi mhi_pci_generic mhi_net mhi_wwan_ctrl mhi_wwan_mbim iosm
            mtk_t7xx rpmsg_wwan_ctrl nozomi"""
        ),
    ),
    "infrared": Group(
        "devices",
        "infrared light: IrDA left Linux in 4.17, receivers and senders of remotes are still there",
        _names(
            """rc_core mceusb ene_ir fintek_cir ite_cir nuvoton_cir winbond_cir serial_ir streamzap
            ttusbir igorplugusb iguanair redrat3 imon imon_raw ati_remote xbox_remote rc_loopback
            ir_toy"""
        ),
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
    "serial-lines": Group(
        "devices",
        "serial lines beyond the one or two the console is on (those are built in)",
        _names(
            """8250_exar 8250_men_mcb 8250_dfl serial_cs jsm mxser synclink_gt sc16is7xx max3100
            max310x uartlite ipwireless rp2 altera_uart altera_jtaguart arc_uart"""
        ),
    ),
    "management-board": Group(
        "devices",
        "the way from the system to its management board (IPMI)",
        _names(
            """ipmi_msghandler ipmi_devintf ipmi_si ipmi_ssif ipmi_watchdog ipmi_poweroff acpi_ipmi
            ipmb_dev_int"""
        ),
    ),
    "user-space-drivers": Group(
        "devices",
        "devices handed to programs, past every driver and file system",
        _names(
            """uio uio_pci_generic uio_pdrv_genirq uio_dmem_genirq uio_aec uio_cif uio_netx
            uio_sercos3 vfio vfio_pci vfio_pci_core vfio_iommu_type1 vfio_virqfd mdev vduse
            vdpa_sim_blk vdpa_sim_net vhost vhost_net vhost_scsi vhost_vdpa vhost_vsock"""
        ),
    ),
    "crash-targets": Group(
        "devices",
        "places a crashing kernel writes to: another machine, firmware variables, raw flash",
        _names("netconsole ramoops pstore_blk pstore_zone mtdoops mtdpstore efi_pstore"),
    ),
    "images": Group("devices", "files mounted as disks", _names("loop")),
    "user-file-systems": Group(
        "devices", "file systems that are programs (FUSE)", _names("fuse cuse virtiofs")
    ),
    "card-slots": Group(
        "devices", "PC Card and CardBus slots", _names("pcmcia pcmcia_core yenta_socket")
    ),
    "network-file-systems": Group(
        "devices",
        "directories that lie on other machines",
        _names(
            """nfs nfsv2 nfsv3 nfsv4 cifs ceph 9p 9pnet 9pnet_virtio 9pnet_fd 9pnet_rdma afs kafs
            coda orangefs gfs2 ocfs2 dlm vboxsf"""
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
