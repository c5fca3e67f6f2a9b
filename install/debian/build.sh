#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# build.sh OUT BIN VERSION: makes OUT/ambient_VERSION_ARCH.deb from OUT/stage, where `make install` put the files, and
# OUT/ambient-dbgsym_VERSION_ARCH.deb from BIN/*.debug. The same input gives the same bytes: times are those of the
# changelog (or SOURCE_DATE_EPOCH), owners are root, modes do not depend on the umask. Needs dpkg-dev, not root.
set -eu
umask 022
export LC_ALL=C
out=$1 bin=$2 version=$3
here=$(dirname "$0")
stage=$out/stage debug=$out/stage-dbgsym
programs="ambient-agent ztunnel ambientctl ambient-cni"

if ! command -v dpkg-shlibdeps >/dev/null; then
	echo "deb: dpkg-shlibdeps is missing (Debian package dpkg-dev)" >&2
	exit 1
fi
entry() { dpkg-parsechangelog -l "$here/changelog" -S "$1"; }
if [ "$(entry Version)" != "$version" ]; then
	echo "deb: install/debian/changelog is about $(entry Version), the Makefile about $version" >&2
	exit 1
fi
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(entry Timestamp)}
export SOURCE_DATE_EPOCH
arch=$(dpkg --print-architecture)
maintainer=$(printf '%s' "${DEB_MAINTAINER:-$(entry Maintainer)}" | sed 's/[&|\\]/\\&/g')

# Files that a package has beyond those of `make install`.
doc=$stage/usr/share/doc/ambient
rm "$doc/LICENSE" # it is /usr/share/common-licenses/Apache-2.0
install -m 644 "$here/copyright" "$here/README.Debian" "$doc/"
gzip -9nc "$here/changelog" >"$doc/changelog.gz"
find "$stage/usr/share/man" -type f -exec gzip -9n {} +
install -d "$stage/etc/default" "$stage/opt/cni/bin" "$stage/usr/share/lintian/overrides"
install -m 644 "$here"/default/* "$stage/etc/default/"
install -m 644 "$here/lintian-overrides" "$stage/usr/share/lintian/overrides/ambient"
# Debian's containerd looks in /usr/lib/cni, other runtimes in /opt/cni/bin.
ln -s /usr/lib/cni/ambient-cni "$stage/opt/cni/bin/ambient-cni"

# dpkg-shlibdeps wants a source package around it.
mkdir -p "$out/shlibs/debian" "$stage/DEBIAN"
printf 'Source: ambient\nMaintainer: x\n\nPackage: ambient\nArchitecture: any\n' >"$out/shlibs/debian/control"
top=$(cd "$out" && pwd)
shlibs=$(cd "$out/shlibs" && dpkg-shlibdeps -O -e"$top/stage/usr/sbin/ambient-agent" -e"$top/stage/usr/sbin/ztunnel" \
	-e"$top/stage/usr/bin/ambientctl")
shlibs=${shlibs#shlibs:Depends=}
# What is inside the files (NOTICE).
# shellcheck disable=SC2016
using=$(dpkg-query -W -f '${source:Package} (= ${source:Version})\n' libc6-dev libjemalloc-dev libjsmn-dev \
	libprotobuf-c-dev | sort -u | sed ':a;N;$!ba;s/\n/, /g')

ids=
for p in $programs; do
	id=$(readelf -n "$bin/$p" | sed -n 's/^ *Build ID: //p')
	if [ -z "$id" ]; then
		echo "deb: $bin/$p has no build ID" >&2
		exit 1
	fi
	rest=${id#??}
	install -D -m 644 "$bin/$p.debug" "$debug/usr/lib/debug/.build-id/${id%"$rest"}/$rest.debug"
	ids="$ids $id"
done
mkdir -p "$debug/usr/share/doc"
ln -s ambient "$debug/usr/share/doc/ambient-dbgsym"

# pack DIRECTORY CONTROL: writes the control file and the checksums, and packs.
pack() {
	mkdir -p "$1/DEBIAN"
	find "$1" -type d -exec chmod 755 {} +
	size=$(find "$1" -path "$1/DEBIAN" -prune -o -type f -printf '%s\n' -o -printf '1\n' |
		awk '{n += int(($1 + 1023) / 1024)} END {print n}')
	sed -e "s|@VERSION@|$version|g" -e "s|@ARCH@|$arch|" -e "s|@MAINTAINER@|$maintainer|" \
		-e "s|@SIZE@|$size|" -e "s|@SHLIBS@|$shlibs|" -e "s|@BUILT_USING@|$using|" -e "s|@BUILD_IDS@|${ids# }|" \
		"$2" >"$1/DEBIAN/control"
	(cd "$1" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum) >"$1/DEBIAN/md5sums"
	find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	dpkg-deb --root-owner-group -Zxz --build "$1" "$out" >/dev/null
}
install -m 644 "$here/conffiles" "$stage/DEBIAN/"
install -m 755 "$here/postinst" "$here/prerm" "$here/postrm" "$stage/DEBIAN/"
pack "$stage" "$here/control.in"
pack "$debug" "$here/control-dbgsym.in"
ls "$out"/*.deb
