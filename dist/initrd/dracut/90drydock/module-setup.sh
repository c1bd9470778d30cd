#!/bin/bash
# A dracut module: /dev/drydock/root in the initrd. See 61-drydock-slot.rules.

check() {
	require_binaries tr && [ -x "${dracutsysrootdir-}/usr/lib/drydock/boot-slot" ]
}

depends() {
	echo udev-rules
}

installkernel() {
	# EFI variables: also in an image that is made where there are none.
	hostonly='' instmods efivarfs
}

install() {
	inst_multiple tr /usr/lib/drydock/boot-slot
	inst_rules 61-drydock-slot.rules
	inst_hook pre-udev 10 "$moddir/efivars.sh"
}
