#!/bin/sh
# install.sh [DIR]: fetch the mail servers of the interoperation tests from Debian and unpack them below DIR
# (default: $ZSMTP_INTEROP_DIR, else ~/.cache/zsmtp-interop).
#
# Postfix, Exim, OpenSMTPD and Dovecot, NSD and Unbound, Sisimai (Perl), which reads bounces, and OpenDKIM, which verifies
# signatures, with every library they need, go into one small root directory, DIR/root, in which servers.py and zones.py start them. They could not be
# installed together (each wants to be *the* mail server); unpacked side by side, without their maintainer scripts, they
# do not meet. Nothing is installed, enabled or changed outside DIR. Packages come from the apt sources of this machine
# and are checked by apt as always.
# Needs root on Debian 12. A second run finds everything there and returns at once.
set -eu
umask 022
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH LC_ALL=C DEBIAN_FRONTEND=noninteractive

say() { echo "interop: $*"; }
die() { echo "interop: $*" >&2; exit 1; }

dir=${1:-${ZSMTP_INTEROP_DIR:-${HOME:-/root}/.cache/zsmtp-interop}}
[ "$(id -u)" = 0 ] || die "root is needed (the servers run in a chroot, in namespaces of their own)"
# shellcheck source=/dev/null
codename=$(. /etc/os-release 2>/dev/null && echo "${VERSION_CODENAME:-}")
[ "$codename" = bookworm ] || die "Debian 12 (bookworm) is needed, this is '${codename:-unknown}'"
for tool in apt-get dpkg-deb tar flock unshare chroot sha256sum; do
    command -v "$tool" >/dev/null || die "$tool not found"
done
mkdir -p "$dir"
dir=$(cd "$dir" && pwd -P)
# the name of a UNIX socket below DIR must fit into 107 octets
[ ${#dir} -le 80 ] || die "the path $dir is too long: at most 80 octets"

# One run at a time; servers.py holds the same lock while the servers are up.
exec 9>>"$dir/lock"
flock -n 9 || die "$dir is in use by another run"

root=$dir/root
here=$(cd "$(dirname "$0")" && pwd -P)
edition=$(sha256sum "$here/install.sh" | cut -d' ' -f1)
if [ "$(cat "$dir/edition" 2>/dev/null)" = "$edition" ]; then
    say "already installed in $dir: $(tr '\n' ',' < "$dir/versions" | sed 's/,$//; s/,/, /g')"
    exit 0
fi

# An apt of its own: its lists, cache and idea of what is installed (nothing) lie below DIR; only the sources are the
# machine's, and of these only what comes from Debian.
apt=$dir/apt
rm -rf "$dir/edition" "$apt/lists"
mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/nothing/partial"
: > "$apt/status"
printf 'Package: *\nPin: release o=Debian\nPin-Priority: 500\n\nPackage: *\nPin: release o=*\nPin-Priority: -1\n' \
    > "$apt/preferences"
cat > "$apt/apt.conf" <<CONF
Dir::State "$apt";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt";
Dir::Cache::archives "$apt/archives";
Dir::Etc::preferences "$apt/preferences";
Dir::Etc::preferencesparts "/dev/null";
Dir::Log "$apt";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
APT::Update::Post-Invoke "";
Acquire::Languages "none";
CONF
export APT_CONFIG="$apt/apt.conf"

say "reading Debian's package lists"
apt-get -qq update || say "apt-get update complained; going on with the lists it got"

# Without an installed system the essential packages must be named; what conflicts is resolved apart. (apt names only
# what it would have to fetch: asked with an empty cache, it names everything.)
: > "$apt/wanted"
for group in "dash coreutils diffutils findutils sed grep libc-bin" "postfix" "dovecot-lmtpd" "exim4-daemon-light" "opensmtpd" "nsd unbound" "libsisimai-perl" "opendkim"; do
    # shellcheck disable=SC2086  # a list of words
    apt-get -qq -y --print-uris -o Dir::Cache::archives="$apt/nothing" install $group > "$apt/uris" || die "$group: not to be had"
    awk '{print $2}' "$apt/uris" >> "$apt/wanted"
    say "fetching $group"
    # shellcheck disable=SC2086
    apt-get -qq -y --download-only install $group > "$apt/download.log" 2>&1 || { cat "$apt/download.log" >&2; die "download failed"; }
done
sort -u "$apt/wanted" -o "$apt/wanted"

say "unpacking $(wc -l < "$apt/wanted") packages into $root"
rm -rf --one-file-system "$root.new"
mkdir -p "$root.new/usr" "$root.new/run" "$root.new/var"
ln -s ../run "$root.new/var/run"
for name in bin sbin lib lib64; do
    mkdir -p "$root.new/usr/$name"
    ln -s "usr/$name" "$root.new/$name"
done
while read -r package; do
    # tar, not "dpkg-deb -x": that would replace the links just made by directories
    dpkg-deb --fsys-tarfile "$apt/archives/$package" |
        tar -x --keep-directory-symlink --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' -C "$root.new"
done < "$apt/wanted"

say "accounts, directories"
# number:name:home; the numbers are meant to be nobody's on this machine
{ echo "root:x:0:0:root:/root:/bin/sh"
  for account in 36001:postfix:/var/spool/postfix 36002:Debian-exim:/var/spool/exim4 36003:opensmtpd:/var/lib/opensmtpd/empty \
      36004:opensmtpq:/var/lib/opensmtpd/empty 36005:dovecot:/usr/lib/dovecot 36006:dovenull:/nonexistent 36007:vmail:/store \
      36008:nobody:/nonexistent; do
      IFS=: read -r number name home <<LINE
$account
LINE
      echo "$name:x:$number:$number:$name:$home:/usr/sbin/nologin"
  done; } > "$root.new/etc/passwd"
{ awk -F: '{print $1 ":x:" $4 ":"}' "$root.new/etc/passwd"; echo "postdrop:x:36009:"; echo "mail:x:8:"; } > "$root.new/etc/group"
printf '127.0.0.1 localhost client.interop.test\n' > "$root.new/etc/hosts"
for server in postfix exim opensmtpd dovecot; do echo "127.0.0.1 $server.interop.test"; done >> "$root.new/etc/hosts"
printf 'passwd: files\ngroup: files\nhosts: files\nservices: files\nprotocols: files\n' > "$root.new/etc/nsswitch.conf"
mkdir -p "$root.new/dev" "$root.new/proc" "$root.new/tmp" "$root.new/store" "$root.new/var/log" \
    "$root.new/var/spool/exim4" "$root.new/var/log/exim4" "$root.new/var/spool/smtpd" "$root.new/var/lib/opensmtpd/empty"
chmod 1777 "$root.new/tmp"
chmod 711 "$root.new/var/spool/smtpd"
cp "$root.new/usr/share/postfix/dynamicmaps.cf" "$root.new/etc/postfix/"
for link in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
    ln -s "/proc/self/${link#*:}" "$root.new/dev/${link%:*}"
done
chroot "$root.new" /bin/sh -e <<'CHROOT'
ldconfig
chown postfix /var/lib/postfix
chgrp postdrop /usr/sbin/postqueue /usr/sbin/postdrop
chmod 2755 /usr/sbin/postqueue /usr/sbin/postdrop
chown -R Debian-exim:Debian-exim /var/spool/exim4 /var/log/exim4
chown root:Debian-exim /usr/sbin/exim4
chmod 4755 /usr/sbin/exim4
chown root:opensmtpq /usr/sbin/smtpctl
chown vmail:vmail /store
CHROOT

rm -rf --one-file-system "$root"
mv "$root.new" "$root"
grep -E '^(postfix|exim4-daemon-light|opensmtpd|dovecot-lmtpd|nsd|unbound|libsisimai-perl|opendkim)_' "$apt/wanted" |
    sed 's/_[^_]*$//; s/%3a/:/; s/_/ /' > "$dir/versions"
rm -rf "$apt/lists"
echo "$edition" > "$dir/edition"
say "installed $(tr '\n' ',' < "$dir/versions" | sed 's/,$//; s/,/, /g'): $(du -sh "$dir" | cut -f1) in $dir"
