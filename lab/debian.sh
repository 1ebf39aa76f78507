# shellcheck shell=sh disable=SC2154 # the script that sources this file sets `work`
# Functions of the scripts that make images of Debian's packages, without pulling an image. Each such
# script sets `work`, a folder for downloads, and removes it.

say() { echo "$(basename "$0"): $*" >&2; }
die() { say "$@"; exit 1; }

command -v docker >/dev/null || die "docker is not installed: apt-get install docker.io"
docker version >/dev/null 2>&1 || die "the Docker engine does not respond: is it running, and are you in the group docker?"

# apt with lists, cache and status of its own: no package counts as installed, so that every package
# that is needed is downloaded. The system's are neither read nor changed, and root is not needed.
apt() {
    tool=$1
    shift
    "apt-$tool" -qq -o Dir::State="$work" -o Dir::State::status="$work/status" -o Dir::Cache="$work" \
        -o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)" -o APT::Install-Recommends=0 \
        -o APT::Get::Assume-Yes=1 -o APT::Get::Download-Only=1 \
        -o APT::Architectures::=amd64 -o APT::Architectures::=arm64 \
        -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20 "$@" 2>>"$work/log"
}

lists() {
    command -v apt-get >/dev/null || die "apt-get is not installed: this script needs Debian's packages"
    mkdir -p "$work/lists/partial" "$work/archives/partial"
    : >"$work/status"
    say "downloading the lists of packages"
    apt get update || true
    [ -n "$(find "$work/lists" -name '*Packages*')" ] || die "no network: $(sed -n 's/^[EW]: //p' "$work/log" | head -n 1)"
}

# Prints the lines of stdin that PATTERN, of sed, selects: all of them, or on a terminal each over the
# last. TITLE comes before each.
progress() {
    title=$1 pattern=$2
    sed -u -n "$pattern" | while read -r line; do
        if [ -t 2 ]; then printf '\r\033[K%s' "$(basename "$0"): $title $line" >&2; else say "$title $line"; fi
    done
    [ ! -t 2 ] || printf '\r\033[K' >&2
}

# Downloads packages to `work`/archives: these alone (VERB download), or with their dependencies
# (install).
fetch() {
    verb=$1
    shift
    for package in "$@"; do
        [ -n "$(apt cache show "$package")" ] ||
            die "apt-get knows no package $package: it is in Debian 12, main and security"
    done
    # A pipe hides the exit code.
    {
        (cd "$work/archives" && apt get --quiet=1 "$verb" "$@") || : >"$work/failed"
    } | progress "downloading" 's/^Get:[^ ]* .* \([^ ]*\) \([^ ]*\) \([^ ]*\) \[\(.*\)\]$/\1 (\4)/p'
    [ ! -e "$work/failed" ] || die "a download failed: $(sed -n 's/^E: //p' "$work/log" | tail -n 1)"
}

# Unpacks PACKAGE into FOLDER, or only these PATHS of it.
unpack() {
    package=$1 folder=$2
    shift 2
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$folder" --keep-directory-symlink --no-same-owner \
        --exclude './usr/share/*' --wildcards "$@"
}

# Makes FOLDER a root file system of all downloaded packages.
unpack_all() {
    mkdir -p "$1/usr/bin" "$1/usr/lib" "$1/usr/lib64" "$1/usr/sbin" "$1/root"
    mkdir -m 1777 "$1/tmp"
    for folder in bin lib lib64 sbin; do ln -s "usr/$folder" "$1/$folder"; done
    for package in "$work"/archives/*.deb; do unpack "$package" "$1" .; done
    rm "$work"/archives/*.deb
}

# Links busybox's tools into the root file system FOLDER, where no package has brought them.
add_tools() {
    for applet in $("$1/bin/busybox" --list); do
        [ -e "$1/usr/bin/$applet" ] || ln -s busybox "$1/usr/bin/$applet"
    done
}
