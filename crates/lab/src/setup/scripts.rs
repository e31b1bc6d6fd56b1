//! Programs of an administrator: hooks, a service that is a command, and a notify script as
//! people have them for keepalived. What they do is noted on their host, in [`STORY`].

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// What happened on a host, a line each.
pub(crate) const STORY: &str = "/run/story.log";

/// What keepalived's script was told last.
pub(crate) const NOTIFIED: &str = "/run/keepalived.state";

/// What a hook does besides: the lab puts a script here, on one host, for one hook.
pub(crate) fn misdeed(hook: &str) -> String {
    format!("/run/hook.{hook}")
}

/// One program for all hooks.
const HOOK: &str = r#"#!/bin/sh
echo "hook $EVENKEEL_HOOK group=$EVENKEEL_GROUP role=$EVENKEEL_ROLE epoch=$EVENKEEL_EPOCH" \
	"node=$EVENKEEL_NODE peer=$EVENKEEL_PEER reason=$EVENKEEL_REASON" >>/run/story.log
if [ -e "/run/hook.$EVENKEEL_HOOK" ]; then
	. "/run/hook.$EVENKEEL_HOOK"
fi
"#;

/// A service that stays in the foreground. It notes whether Apache runs, which it needs.
const APP: &str = r#"#!/bin/sh
note() {
	echo "service $1 with $(pgrep -x -c apache2) of Apache" >>/run/story.log
}
name=$1
trap 'note "$name stops"; rm -f "/run/up.$name"; exit 0' TERM
note "$name starts"
: >"/run/up.$name"
while :; do
	sleep 1000 &
	wait $!
done
"#;

/// As in many a guide to keepalived: type, name, state and priority.
const NOTIFY: &str = r#"#!/bin/bash
TYPE=$1
NAME=$2
STATE=$3
PRIORITY=$4
case $STATE in
"MASTER" | "BACKUP" | "FAULT")
	echo "$TYPE $NAME $STATE $PRIORITY" >/run/keepalived.state
	exit 0
	;;
*)
	echo "unknown state $STATE" >/run/keepalived.state
	exit 1
	;;
esac
"#;

/// The services, hooks and checks of [`super::Setup::Services`], whose programs are put into
/// `place`.
pub(super) fn write(place: &Path) -> Result<String> {
    for (name, text) in [("hook", HOOK), ("app", APP), ("notify.sh", NOTIFY)] {
        let path = place.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let place = place.display();
    let plugins = "/usr/lib/nagios/plugins";
    Ok(format!(
        r#"
[group.www.service.apache]
unit = "apache2.service"
stop_timeout = "1s"
[group.www.service.app]
start = ["{place}/app", "app"]
status = ["/usr/bin/test", "-e", "/run/up.app"]
stop_timeout = "1s"
restart = 1
[group.www.hook]
before_open = "{place}/hook"
after_open = "{place}/hook"
before_close = "{place}/hook"
after_close = "{place}/hook"
keepalived = "{place}/notify.sh"
hook_timeout = "1s"
[group.www.check.page]
nagios = "{plugins}/check_http -H 127.0.0.1 -u /who"
service = "apache"
[group.www.check.port]
nagios = "{plugins}/check_tcp -H 127.0.0.1 -p 80"
service = "apache"
[group.www.check.number]
nagios = "{plugins}/check_procs -c 1: -C apache2"
service = "apache"
[group.www.check.app]
process = "app"
interval = "50ms"
"#
    ))
}
