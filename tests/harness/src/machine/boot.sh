#!/bin/sh
# The first process of a machine: makes its file systems, then becomes its init. Runs in new mount, UTS and process
# namespaces and in the network namespace of the machine, whose private directory is $1 and whose name is $2.
set -eu
dir=$1
name=$2
hostname "$name"

# Network namespaces of others would live as long as these copies of their mounts.
while umount -l /run/netns 2>/dev/null; do :; done

mount -t proc proc /proc
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /run/lock /run/netns
for top in etc var opt; do
    mkdir -p "$dir/$top" "$dir/$top.work"
    mount -t overlay -o "lowerdir=/$top,upperdir=$dir/$top,workdir=$dir/$top.work" overlay "/$top"
done

# What programs on the machine and people outside of it both look at, and what an overlay cannot be stacked upon.
for own in etc/cni/net.d opt/cni/bin var/lib/containerd var/lib/kubelet var/log/pods etc/kubernetes/manifests; do
    mkdir -p "$dir/own/$own" "/$own"
    mount --bind "$dir/own/$own" "/$own"
done

# Pins of machines must not meet: each mount is an instance of its own.
mount -t bpf bpf /sys/fs/bpf

# A kubelet sets these for the whole kernel; here it sets copies of them.
mkdir -p "$dir/sysctl"
for key in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops kernel/keys/root_maxkeys \
    kernel/keys/root_maxbytes; do
    copy=$dir/sysctl/$(echo "$key" | tr / .)
    cat "/proc/sys/$key" > "$copy"
    mount --bind "$copy" "/proc/sys/$key"
done

# Each boot is another one, and each machine another machine.
cat /proc/sys/kernel/random/uuid > "$dir/boot_id"
mount --bind "$dir/boot_id" /proc/sys/kernel/random/boot_id
[ -s "$dir/machine-id" ] || tr -d - < /proc/sys/kernel/random/uuid > "$dir/machine-id"
cp "$dir/machine-id" /etc/machine-id

# Mounts of pods are seen by kubelet and containerd alike.
mount --make-rshared /
: > "$dir/booted"
exec "$dir/init"
