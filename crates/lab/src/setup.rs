//! How Apache runs on a cluster's servers, and what asks about it: the clusters of rows and
//! scenarios differ in that.

pub(crate) mod scripts;

use std::path::Path;

use anyhow::Result;

use crate::systemd;

/// The check by http of the usual file.
const HTTP: &str = "http = \"http://{node}/who\"\n";

/// What is asked by the node itself as well as by its peers in the usual file.
const FROM_BOTH: &str = "from = [\"node\", \"peers\"]\n";

/// One way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Setup {
    /// It runs on both servers, started by the lab; asked by http.
    #[default]
    Http,
    /// The same; its processes are watched.
    Process,
    /// It runs on both servers, as a unit of a real systemd; asked by http.
    Systemd,
    /// It runs on both servers, as a unit of a real systemd; the unit is watched.
    Unit,
    /// A unit of a real systemd that runs on the holder alone, started and stopped with the
    /// group; asked by http.
    Cold,
    /// The same on three servers, with a command as a second service, hooks, a notify script
    /// of keepalived's and plugins of Nagios.
    Services,
}

/// The service of [`Setup::Cold`].
const COLD: &str = "\n[group.www.service.apache]\nunit = \"apache2.service\"\nwhen = \"active\"\n";

impl Setup {
    /// Whether the servers have a real systemd, and run the daemon as its unit.
    pub(crate) fn has_systemd(self) -> bool {
        matches!(
            self,
            Self::Systemd | Self::Unit | Self::Cold | Self::Services
        )
    }

    /// Whether Apache runs on the standby, too.
    pub(crate) fn is_warm(self) -> bool {
        !matches!(self, Self::Cold | Self::Services)
    }

    /// Whether there is a third server.
    pub(crate) fn has_third(self) -> bool {
        matches!(self, Self::Services)
    }

    /// Why there can be no such cluster here.
    pub(crate) fn hindrance(self) -> Option<String> {
        self.has_systemd().then(systemd::hindrance).flatten()
    }

    /// The configuration file, made out of the usual one. Programs that it names are put into
    /// `place`.
    pub(crate) fn edit(self, usual: &str, place: &Path) -> Result<String> {
        let asked = |question: &str| {
            usual
                .replace(HTTP, question)
                .replace(FROM_BOTH, "from = [\"node\"]\n")
        };
        Ok(match self {
            Self::Http | Self::Systemd => usual.to_owned(),
            Self::Process => asked("process = \"apache2\"\n"),
            Self::Unit => asked("unit = \"apache2.service\"\n"),
            Self::Cold => format!("{usual}{COLD}"),
            Self::Services => format!("{usual}{}", scripts::write(place)?),
        })
    }
}
