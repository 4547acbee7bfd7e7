#!/bin/busybox sh
# First program of the lab's host: loads the modules that the host needs, brings up QEMU's user network (its addresses
# are fixed), mounts the disks, lays this lab's own files over the root, and hands over to systemd.

fail() {
    echo "zonal lab: the host cannot start: $1"
    /bin/busybox poweroff -f
}

/bin/busybox mount -t devtmpfs dev /dev || fail "no devtmpfs"
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys

while read -r module; do
    /bin/busybox insmod "/modules/$module" || fail "cannot load $module"
done < /modules/order

/bin/busybox ip link set eth0 up
/bin/busybox ip address add 10.0.2.15/24 dev eth0
/bin/busybox ip route add default via 10.0.2.2

/bin/busybox mount -t ext4 -o noatime /dev/vda /root || fail "cannot mount its root disk"
/bin/busybox mkdir -p /root/var/lib/zonal
/bin/busybox mount -t ext4 -o noatime /dev/vdb /root/var/lib/zonal || fail "cannot mount its data disk"

/bin/busybox rm -rf /root/opt/zonal/src
/bin/busybox cp -a /lab/. /root/ || fail "cannot write its own files: is its disk full?"

/bin/busybox mount --move /dev /root/dev
/bin/busybox umount /sys
/bin/busybox umount /proc
exec /bin/busybox switch_root /root /lib/systemd/systemd "$@" || fail "cannot start systemd"
