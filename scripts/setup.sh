#!/bin/sh
# Installs what building, testing and the demo need and this machine lacks: packages of
# Debian, as root or through sudo. Says nothing and changes nothing when all is there.
# It never starts or enables a service, and never downloads a compiler: a missing or old
# Rust is named, with what to do about it.
#
# With --peers, the other failover software besides that `evenkeel lab compare` measures.
# Nothing else needs it.
set -eu

# The Rust that the workspace asks for (rust-version in Cargo.toml).
RUST_MAJOR=1
RUST_MINOR=91

# Programs, each with the Debian package that has it.
PROGRAMS='
apache2 apache2
ip iproute2
nft nftables
ping iputils-ping
arping iputils-arping
tcpdump tcpdump
newuidmap uidmap
unshare util-linux
setpriv util-linux
systemctl systemd
dbus-daemon dbus-daemon
pkill procps
nsenter util-linux
cc gcc
dnsmasq dnsmasq-base
/usr/lib/nagios/plugins/check_http monitoring-plugins-basic
smtpd opensmtpd
'

# What only the comparison needs.
PEERS='
keepalived keepalived
ucarp ucarp
corosync corosync
pacemakerd pacemaker
crm_mon pacemaker-cli-utils
/usr/lib/ocf/resource.d/heartbeat/apache resource-agents
wget wget
'

# Packages of those that start a server as they are installed.
SERVERS='apache2 opensmtpd keepalived corosync pacemaker'

case ${1-} in
--peers) PROGRAMS=$PROGRAMS$PEERS ;;
'') ;;
*)
	printf 'usage: %s [--peers]\n' "$0" >&2
	exit 2
	;;
esac

# System directories, which an ordinary user of Debian does not search; and where Rust's
# installer puts cargo, which a shell older than the installation does not search yet.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:${HOME:-/nonexistent}/.cargo/bin
export PATH

say() {
	printf '%s\n' "setup: $*" >&2
}

has() {
	command -v "$1" >/dev/null 2>&1
}

# The packages that are missing, each once, on one line.
missing_packages() {
	{
		printf '%s\n' "$PROGRAMS" | while read -r program package; do
			if [ -n "$program" ] && ! has "$program"; then
				printf '%s\n' "$package"
			fi
		done
		# A compiler without the C library's headers and start files links nothing.
		if has cc && ! links; then
			printf '%s\n' libc6-dev
		elif ! has cc; then
			printf '%s\n' libc6-dev
		fi
	} | sort -u | tr '\n' ' '
}

# Whether the C compiler can make a program: Rust's linker and the cryptographic
# library's build need that.
links() {
	printf '#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n' |
		cc -x c -o /dev/null - >/dev/null 2>&1
}

# Runs a command with root's rights.
as_root() {
	if [ "$(id -u)" -eq 0 ]; then
		env "$@"
	else
		sudo env "$@"
	fi
}

# Installs packages without starting their services. Debian's apache2 starts and enables
# a web server on port 80 as it is installed, which nobody asked for: the lab starts its
# own in namespaces. Whether a package may start its service is asked of
# /usr/sbin/policy-rc.d (invoke-rc.d(8)); one that says no lies there meanwhile, unless
# the machine has one of its own, which is then the machine's word and is left alone.
# An installed server would still be started by the next boot, so its unit is disabled;
# only here, where the package was not there before, so nobody's choice is undone.
install_packages() {
	policy=/usr/sbin/policy-rc.d
	if [ -e "$policy" ]; then
		fetch_packages "$1"
		return
	fi
	# Whatever happens from here on, it does not stay.
	trap remove_policy EXIT
	trap 'exit 1' HUP INT TERM
	# shellcheck disable=SC2016 # the inner shell expands $1
	as_root sh -c 'printf "#!/bin/sh\nexit 101\n" > "$1" && chmod 0755 "$1"' sh "$policy" || return 1
	fetched=0
	fetch_packages "$1" || fetched=1
	remove_policy
	trap - EXIT HUP INT TERM
	return "$fetched"
}

# Its callers look at how it ended, which switches `set -e` off: each step says so itself.
fetch_packages() {
	as_root DEBIAN_FRONTEND=noninteractive apt-get -q update || return 1
	# shellcheck disable=SC2086 # a list of packages
	as_root DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install $1 ||
		return 1
	for server in $SERVERS; do
		case " $1 " in
		*" $server "*) disable_unit "$server.service" ;;
		esac
	done
	# The agents bring a log daemon of their own, which they do without.
	case " $1 " in
	*" resource-agents "*) disable_unit logd.service ;;
	esac
}

disable_unit() {
	if has systemctl && ! as_root systemctl --quiet disable "$1" 2>/dev/null; then
		say "note: $1 could not be disabled; it may start with the machine"
	fi
}

remove_policy() {
	as_root rm -f /usr/sbin/policy-rc.d
}

check_packages() {
	wanted=$(missing_packages)
	if [ -z "${wanted# }" ]; then
		return 0
	fi
	say "missing here: $wanted"
	if ! has apt-get; then
		say "this is no Debian, so they are not installed for you. These programs are needed,"
		say "whatever their packages are called here:"
		printf '%s\n' "$PROGRAMS" | while read -r program package; do
			if [ -n "$program" ] && ! has "$program"; then
				say "  $program   (Debian: $package)"
			fi
		done
		if ! has cc || ! links; then
			say "  a C compiler with the C library's headers   (Debian: gcc libc6-dev)"
		fi
		return 1
	fi
	if [ "$(id -u)" -ne 0 ] && ! has sudo; then
		say "installing them takes root, and there is no sudo here. As root, run:"
		say "  apt-get update && apt-get install --no-install-recommends $wanted"
		say "(of these, $SERVERS start servers of their own then: systemctl disable --now them)"
		return 1
	fi
	if ! install_packages "$wanted"; then
		say "the packages could not be installed; what apt-get said is above"
		return 1
	fi
	left=$(missing_packages)
	if [ -n "${left# }" ]; then
		say "still missing after the installation: $left"
		return 1
	fi
}

check_rust() {
	if ! has cargo || ! has rustc; then
		say "there is no Rust here. It takes $RUST_MAJOR.$RUST_MINOR or newer: install it as"
		say "https://rustup.rs says (as the user who builds, without root), or from the"
		say "distribution if its rustc is new enough (apt-cache policy rustc)."
		return 1
	fi
	version=$(rustc --version | cut -d ' ' -f 2)
	major=${version%%.*}
	rest=${version#*.}
	minor=${rest%%.*}
	if [ "$major" -lt "$RUST_MAJOR" ] ||
		{ [ "$major" -eq "$RUST_MAJOR" ] && [ "$minor" -lt "$RUST_MINOR" ]; }; then
		say "Rust $version is too old: it takes $RUST_MAJOR.$RUST_MINOR or newer."
		if has rustup; then
			say "Update it with: rustup update stable"
		else
			say "Install a newer one as https://rustup.rs says; it does not touch the old one."
		fi
		return 1
	fi
	if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
		say "note: make test also takes rustfmt and clippy: rustup component add rustfmt clippy"
		say "(distribution: packages rustfmt and rust-clippy)"
	fi
}

# Both are asked, so that one run tells everything that is missing.
outcome=0
check_packages || outcome=1
check_rust || outcome=1
exit "$outcome"
