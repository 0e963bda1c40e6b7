#!/usr/bin/env bash
# Put a real SLURM (Debian's slurm-wlm and munge) into a folder, for the tests that submit to one: `envs/slurm-test.sh work/slurm`.
# Nothing is installed and no root is needed: the packages are fetched with apt-get and unpacked. About 4 MB, seconds.
# tests/slurm_cluster.py starts the daemons from that folder; it finds work/slurm, and others by PLUMBLINE_SLURM.
set -euo pipefail
[ $# = 1 ] || { echo "usage: envs/slurm-test.sh FOLDER" >&2; exit 2; }
prefix=$(realpath -m "$1")
packages=(slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge libmunge2 libhwloc15 liblua5.1-0)
wanted="${packages[*]}"
[ "$(cat "$prefix/ready" 2> /dev/null)" != "$wanted" ] || exit 0

fail() { echo "error: $*" >&2; exit 1; }
for tool in apt-get dpkg ldd; do
    command -v "$tool" > /dev/null || fail "no $tool here: this unpacks Debian's packages; elsewhere install SLURM and munge, the tests find them in PATH"
done
rm -rf "$prefix"
mkdir -p "$prefix/packages/partial" "$prefix/lists/partial"
cd "$prefix/packages"

# The machine's own package lists if they know SLURM, else lists of our own beside the packages.
lists=()
if ! apt-get download --print-uris "${packages[@]}" > /dev/null 2>&1; then
    lists=(-o "Dir::State::lists=$prefix/lists" -o "Dir::Cache=$prefix/cache")
    mkdir -p "$prefix/cache"
    apt-get "${lists[@]}" -qq update || fail "apt-get could not fetch its package lists"
fi
apt-get "${lists[@]}" -qq -o APT::Sandbox::User= download "${packages[@]}" || fail "apt-get could not fetch SLURM's packages"
version=$(dpkg-deb --field slurmctld_*.deb Version)
for package in *.deb; do dpkg -x "$package" "$prefix"; done
cd "$prefix"
for daemon in slurmctld slurmd slurmstepd; do ln -sf "$daemon-wlm" "$prefix/usr/sbin/$daemon"; done
rm -rf "$prefix/packages" "$prefix/lists" "$prefix/cache"

libraries=$(dirname "$(find "$prefix/usr/lib" -name 'libmunge.so.2' | head -n 1)")
[ -d "$libraries/slurm-wlm" ] || fail "$prefix holds no SLURM libraries: Debian has moved them"
for program in sbin/slurmctld sbin/slurmd sbin/slurmstepd sbin/munged bin/srun bin/sbatch bin/squeue; do
    missing=$(LD_LIBRARY_PATH=$libraries:$libraries/slurm-wlm ldd "$prefix/usr/$program" | awk '/not found/ {print $1}')
    [ -z "$missing" ] || fail "$program needs $(echo $missing), which this machine lacks: add its package to this script"
done
echo "$wanted" > "$prefix/ready"
echo "SLURM $version is in $prefix"
