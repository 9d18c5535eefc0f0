# Run a command where it sees a few folders, read-only, and nothing else: sh jail.sh SCRATCH_BYTES MOUNT_POINT READABLE... -- COMMAND...
# Runs as the first process of new namespaces (see jail.py), so every mount made here ends with it.
set -eu
bytes=$1
root=$2
shift 2
mount --make-rprivate /
mount -t tmpfs -o "mode=755,size=16m" tmpfs "$root"
mkdir "$root/tmp"  # before the rest: what is to be seen may lie in there
mount -t tmpfs -o "mode=700,size=$bytes,nosuid,nodev" tmpfs "$root/tmp"
while [ "$1" != -- ]; do
  if [ -d "$1" ]; then mkdir -p "$root$1"; else mkdir -p "$root$(dirname "$1")"; : >"$root$1"; fi
  mount --rbind "$1" "$root$1"
  shift
done
shift
for name in bin sbin lib lib32 lib64; do  # links into /usr where the system has merged them
  if [ -L "/$name" ]; then ln -s "$(readlink "/$name")" "$root/$name"; fi
done
# Nobody in here needs namespaces of their own, which is where most ways out of such a place begin.
echo 0 >/proc/sys/user/max_user_namespaces
# What was mounted below a folder came along, each to be closed for itself; what it forbids already, it goes on forbidding.
while read -r _ _ _ _ point options _; do
  point=$(printf '%b' "$point")
  case $point in
    "$root/tmp") ;;
    "$root"/*) mount -o "remount,bind,ro,$(printf %s "$options" | sed 's/^r[wo],*//')" "$point" ;;
  esac
done </proc/self/mountinfo
mkdir -p "$root/proc" "$root/dev" "$root/before"
# Read-only: whoever is root outside still owns the kernel's settings in there, capabilities or not.
mount -t proc -o ro,nosuid,nodev,noexec proc "$root/proc"
for name in null zero full random urandom; do
  : >"$root/dev/$name"
  mount --bind "/dev/$name" "$root/dev/$name"
done
cd "$root"
pivot_root . before
umount -l /before
rmdir /before
mount -o remount,bind,ro /
cd /tmp
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all --securebits=+noroot,+noroot_locked -- "$@"
