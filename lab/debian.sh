# shellcheck shell=sh disable=SC2154 # who sources it sets `work`
# What the scripts have in common that make images of Debian's packages and pull none. Each has a
# folder for downloads, and removes it.

say() { echo "$(basename "$0"): $*" >&2; }
die() { say "$@"; exit 1; }

command -v docker >/dev/null || die "there is no docker here: apt-get install docker.io"
docker version >/dev/null 2>&1 || die "the Docker engine does not answer: is it running, and are you in its group?"

# apt, with lists, cache and status of its own: nothing is known to be installed, so that all that
# is needed comes; the system's are neither read nor changed, and root is not needed.
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
    command -v apt-get >/dev/null || die "there is no apt-get here: this needs Debian's packages"
    mkdir -p "$work/lists/partial" "$work/archives/partial"
    : >"$work/status"
    apt get update || true
    [ -n "$(find "$work/lists" -name '*Packages*')" ] || die "no network: $(sed -n 's/^[EW]: //p' "$work/log" | head -n 1)"
}

# Downloads packages to `work`/archives: alone (VERB download), or with all they need (install).
fetch() {
    verb=$1
    shift
    for package in "$@"; do
        [ -n "$(apt cache show "$package")" ] ||
            die "apt-get knows no package $package: it is in Debian 12, main and security"
    done
    (cd "$work/archives" && apt get "$verb" "$@" >/dev/null) ||
        die "a download failed: $(sed -n 's/^E: //p' "$work/log" | tail -n 1)"
}

# Unpacks PACKAGE into FOLDER, or only these PATHS of it.
unpack() {
    package=$1 folder=$2
    shift 2
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$folder" --keep-directory-symlink --no-same-owner \
        --exclude './usr/share/*' --wildcards "$@"
}

# Makes FOLDER a root that holds all that was fetched.
lay() {
    mkdir -p "$1/usr/bin" "$1/usr/lib" "$1/usr/lib64" "$1/usr/sbin" "$1/root"
    mkdir -m 1777 "$1/tmp"
    for folder in bin lib lib64 sbin; do ln -s "usr/$folder" "$1/$folder"; done
    for package in "$work"/archives/*.deb; do unpack "$package" "$1" .; done
    rm "$work"/archives/*.deb
}

# Gives the root FOLDER a shell and its tools: what busybox has and nobody brought.
equip() {
    for applet in $("$1/bin/busybox" --list); do
        [ -e "$1/usr/bin/$applet" ] || ln -s busybox "$1/usr/bin/$applet"
    done
}
