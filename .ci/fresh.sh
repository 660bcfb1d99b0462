#!/bin/sh
# The README's commands on a bare machine: a new Debian with python3.11, git and make alone, and a clone of HEAD in it.
#
#   .ci/fresh.sh [TARGET...]     targets of make; book and test unless named
#
# The root of that Debian is a folder under TMPDIR (7 GB) that goes when the run ends. What you set for pip holds there,
# too (index, certificates, proxy; local folders are mounted): a machine that reaches no public index is no less fresh.
set -eu

refuse() {
  echo "make fresh: $1" >&2
  exit 1
}

[ "$(uname -s)" = Linux ] || refuse "a Debian root needs Linux, and this is $(uname -s)"
for tool in mmdebstrap git unshare; do
  command -v "$tool" >/dev/null || refuse "$tool is not installed; on Debian and Ubuntu: apt-get install mmdebstrap uidmap"
done
if [ "$(id -u)" = 0 ]; then
  mode=root
  apart="unshare --mount" # what mmdebstrap mounts goes with it, however it ends
  unshare --mount true 2>/dev/null || refuse "this root may not mount, as in a container without that right"
else
  mode=unshare
  apart=""
  unshare --user --map-root-user --mount true 2>/dev/null ||
    refuse "this user may make no namespaces (kernel.unprivileged_userns_clone, AppArmor or a container forbid it); run it as root"
fi

cd "$(dirname "$0")/.."
left_out=$(git status --porcelain)
[ -z "$left_out" ] || printf 'make fresh: not committed, so left out:\n%s\n' "$left_out" >&2

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' HUP INT TERM
chmod 755 "$work" # in a user namespace, root is another user
git bundle create --quiet "$work/tttnn.bundle" HEAD

# pip's settings: files become one file, variables stay variables. What they name on this disk is mounted; of an index in
# a folder, the folder above, where its files may lie. They may hold passwords, so they are handed on as variables.
settings=$(python3 -m pip config list 2>/dev/null || true)
FRESH_ENVIRONMENT=$(env | grep -E \
  '^(PIP_[A-Z_]+|SSL_CERT_(FILE|DIR)|REQUESTS_CA_BUNDLE|(https?|no|all)_proxy|(HTTPS?|NO|ALL)_PROXY)=' || true)
FRESH_PIP=$(echo '[global]' && echo "$settings" | sed -nE "s/\\\\n/ /g; s/^global\.([a-z-]+)='(.*)'$/\1 = \2/p")
FRESH_MOUNTS=$(printf '%s\n' "$settings" "$FRESH_ENVIRONMENT" | grep -oE "[=' ](file://)?/[^' ]+" | cut -c2- |
  while read -r named; do
    case $named in file://*) named=$(dirname "${named#file://}") ;; esac
    if [ -e "$named" ]; then echo "$named"; fi
  done | sort -u)
FRESH_TARGETS=${*:-book test}
export FRESH_ENVIRONMENT FRESH_PIP FRESH_MOUNTS FRESH_TARGETS

cat > "$work/hook" <<'HOOK'
#!/bin/sh
# Run by mmdebstrap as root over the new Debian, in a mount namespace of its own: no mount outlives it.
set -eu
root=$1
work=$(dirname "$0")
echo "$FRESH_MOUNTS" | while read -r path; do
  [ -n "$path" ] || continue
  mkdir -p "$root$(dirname "$path")"
  if [ -d "$path" ]; then mkdir -p "$root$path"; else touch "$root$path"; fi
  mount --bind "$path" "$root$path"
done
echo "$FRESH_PIP" > "$root/etc/pip.conf"
cp "$work/tttnn.bundle" "$root/tmp/tttnn.bundle"
chroot "$root" useradd --create-home --home-dir /reader reader

as_reader() {
  set -- env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/reader USER=reader "$@"
  chroot --userspec=reader:reader "$root" sh -c 'cd /reader && exec "$@"' sh "$@"
}
as_reader git clone --quiet --config advice.detachedHead=false /tmp/tttnn.bundle tttnn
for target in $FRESH_TARGETS; do
  echo "== make $target"
  # One setting a line; a list in it keeps its spaces.
  (set -f && IFS='
' && as_reader $FRESH_ENVIRONMENT make -C tttnn "$target")
done
HOOK
chmod 755 "$work/hook"

# Its folder is in ours, which is removed even if this is interrupted.
TMPDIR=$work $apart mmdebstrap --mode="$mode" --variant=minbase --format=null --include=python3.11,python3.11-venv,git,make \
  --customize-hook="unshare --mount '$work/hook' \"\$1\"" bookworm /dev/null
echo "make fresh: ${*:-book test}: passed on a bare Debian"
