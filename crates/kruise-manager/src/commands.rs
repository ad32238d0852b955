//! The subcommands: `preflight`, `cleanup` and `crds`. Without one, the process is a manager.

use std::sync::Arc;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::Timestamp;
use kruise_upkeep::cleanup::{Cascade, Mode};
use kruise_upkeep::definitions;
use kruise_upkeep::installation::{Installation, Release};
use kruise_upkeep::run::{Report, Upkeep};

use crate::flags::Flags;

/// The whole command line.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "kruise-manager",
    version,
    about = "Runs the workload controllers of Kruise and their admission and conversion webhooks",
    disable_help_subcommand = true,
    args_override_self = true,
    args_conflicts_with_subcommands = true
)]
pub struct CommandLine {
    /// What to do instead of running a manager.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run a manager.
    #[command(flatten)]
    pub flags: Flags,
}

/// What can be done by hand, from hook Jobs and in CI.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Looks for what is in the way of Kruise. Exit code 0: nothing; 3: it can be repaired; 4: it needs you.
    Preflight {
        /// The cluster and the names.
        #[command(flatten)]
        place: Place,
        /// Repair what can be repaired, and look again.
        #[arg(long)]
        fix: bool,
        /// A manager is about to be installed or upgraded: exit code 0 unless something is found that neither its start nor
        /// `--fix` puts right.
        #[arg(long)]
        before_install: bool,
    },
    /// Removes Kruise so that nothing it leaves blocks the cluster. Exit code 5: it refuses.
    Cleanup {
        /// The cluster and the names.
        #[command(flatten)]
        place: Place,
        /// What to do.
        #[command(flatten)]
        what: CleanupWhat,
    },
    /// Installs, compares, prints and migrates the CustomResourceDefinitions.
    Crds {
        /// What to do.
        #[command(subcommand)]
        what: Crds,
    },
}

/// What a cleanup does.
#[derive(Clone, Debug, Args)]
pub struct CleanupWhat {
    /// Change nothing; say whether an uninstall would delete objects. Exit code 5 if it would.
    #[arg(long, conflicts_with_all = ["mode", "dry_run", "yes_delete_custom_resources"])]
    pub check: bool,
    /// With --check: whether the release's manifest has Helm keep the definitions. Without it, what the live definitions say
    /// is taken for that, and may be wrong.
    #[arg(long, conflicts_with = "mode")]
    pub crds_kept: Option<bool>,
    /// What happens to definitions and objects.
    #[arg(long, value_enum, required_unless_present = "check")]
    pub mode: Option<ModeName>,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// With --mode=purge: delete objects of Kruise although there are some.
    #[arg(long)]
    pub yes_delete_custom_resources: bool,
    /// With --mode=purge: what happens to the pods of deleted objects.
    #[arg(long, value_enum, default_value = "background")]
    pub cascade: CascadeName,
}

/// The names of [`Mode`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ModeName {
    /// Definitions and objects stay, and can be read.
    Keep,
    /// They stay, and Kruise's finalizers come off.
    Orphan,
    /// They are deleted.
    Purge,
}

/// The names of [`Cascade`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum CascadeName {
    /// Pods go after their owner.
    Background,
    /// Pods go before their owner.
    Foreground,
    /// Pods stay.
    Orphan,
}

/// What to do with the definitions.
#[derive(Clone, Debug, Subcommand)]
pub enum Crds {
    /// Installs or upgrades them, by server-side apply as `kruise-manager-crds`.
    Apply {
        /// The cluster and the names.
        #[command(flatten)]
        place: Place,
    },
    /// Says what an apply would change, and changes nothing. Exit code 3: something.
    Diff {
        /// The cluster and the names.
        #[command(flatten)]
        place: Place,
    },
    /// Prints them as YAML; needs no cluster.
    Print {
        /// The names.
        #[command(flatten)]
        place: Place,
    },
    /// Rewrites objects that are stored in an old version, then forgets that version. Exit code 4: some could not be.
    Migrate {
        /// The cluster and the names.
        #[command(flatten)]
        place: Place,
        /// Say what would be rewritten, and do nothing.
        #[arg(long)]
        dry_run: bool,
        /// Store objects in this version from now on, where it is served: v1alpha1 before going back to an OpenKruise that
        /// does not serve v1beta1. A manager has to run.
        #[arg(long, value_name = "VERSION")]
        storage_version: Option<String>,
    },
}

/// Where an installation is, and what it is called.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// Path of a kubeconfig; empty tries KUBECONFIG, the in-cluster configuration and ~/.kube/config.
    #[arg(long, default_value = "")]
    pub kubeconfig: String,
    /// Namespace of the manager.
    #[arg(long, env = "POD_NAMESPACE", default_value = "kruise-system")]
    pub namespace: String,
    /// Name of the webhook Service.
    #[arg(long, env = "SERVICE_NAME", default_value = "kruise-webhook-service")]
    pub service: String,
    /// Name of the certificate's Secret.
    #[arg(long, env = "SECRET_NAME", default_value = "kruise-webhook-certs")]
    pub secret: String,
    /// Name of the leader election Lease.
    #[arg(long, default_value = "kruise-manager")]
    pub lease: String,
    /// Namespace of copied pull Secrets.
    #[arg(long, env = "KRUISE_DAEMON_CONFIG_NS", default_value = "kruise-daemon-config")]
    pub daemon_config_namespace: String,
    /// Helm release that shall own what is there; without it, ownership is not looked at.
    #[arg(long)]
    pub release: Option<String>,
    /// Namespace of the Helm release; that of the manager if not given.
    #[arg(long, requires = "release")]
    pub release_namespace: Option<String>,
}

impl Place {
    fn installation(&self) -> Installation {
        Installation {
            namespace: self.namespace.clone(),
            service: self.service.clone(),
            secret: self.secret.clone(),
            lease: self.lease.clone(),
            daemon_config_namespace: self.daemon_config_namespace.clone(),
            release: self.release.clone().map(|name| Release {
                name,
                namespace: self.release_namespace.clone().unwrap_or_else(|| self.namespace.clone()),
            }),
        }
    }
}

impl Command {
    /// The kubeconfig to use, or none if no cluster is needed.
    pub fn kubeconfig(&self) -> Option<&str> {
        let place = match self {
            Self::Preflight { place, .. }
            | Self::Cleanup { place, .. }
            | Self::Crds {
                what: Crds::Apply { place } | Crds::Diff { place } | Crds::Migrate { place, .. },
            } => place,
            Self::Crds { what: Crds::Print { .. } } => return None,
        };
        Some(&place.kubeconfig)
    }

    /// Does it; `client` is called where a cluster is needed.
    ///
    /// # Errors
    /// The API server did not do what was asked.
    pub async fn run(
        &self,
        client: Option<kube::Client>,
        clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    ) -> anyhow::Result<Report> {
        if let Self::Crds { what: Crds::Print { place } } = self {
            return Ok(Report { text: definitions::printed(&place.installation())?, exit_code: 0 });
        }
        let client = client.ok_or_else(|| anyhow::anyhow!("no cluster"))?;
        let upkeep = |place: &Place| Upkeep { client, installation: place.installation(), clock };
        match self {
            Self::Preflight { place, fix, before_install } => {
                let upkeep = upkeep(place);
                Ok(if *before_install {
                    upkeep.preflight_before_install(*fix).await
                } else {
                    upkeep.preflight(*fix).await
                })
            }
            Self::Cleanup { place, what } => match what.mode {
                None => Ok(upkeep(place).cleanup_check(what.crds_kept).await),
                Some(mode) => {
                    let mode = match mode {
                        ModeName::Keep => Mode::Keep,
                        ModeName::Orphan => Mode::Orphan,
                        ModeName::Purge => Mode::Purge,
                    };
                    let cascade = match what.cascade {
                        CascadeName::Background => Cascade::Background,
                        CascadeName::Foreground => Cascade::Foreground,
                        CascadeName::Orphan => Cascade::Orphan,
                    };
                    let confirmed = what.yes_delete_custom_resources;
                    upkeep(place).cleanup(mode, cascade, confirmed, what.dry_run).await
                }
            },
            Self::Crds { what: Crds::Apply { place } } => upkeep(place).crds_apply().await,
            Self::Crds { what: Crds::Diff { place } | Crds::Print { place } } => {
                upkeep(place).crds_diff().await
            }
            Self::Crds { what: Crds::Migrate { place, dry_run, storage_version } } => {
                upkeep(place).crds_migrate(*dry_run, storage_version.as_deref()).await
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<CommandLine, clap::Error> {
        CommandLine::try_parse_from(std::iter::once("kruise-manager").chain(line.iter().copied()))
    }

    #[test]
    fn the_parser_is_consistent() {
        use clap::CommandFactory as _;
        CommandLine::command().debug_assert();
    }

    #[test]
    fn without_a_subcommand_it_is_the_manager_it_always_was() {
        let line =
            parse(&["--enable-leader-election", "--metrics-addr=:1", "--v=4", "--log_dir=/tmp"]).unwrap();
        assert!(line.command.is_none());
        assert_eq!((line.flags.metrics_addr.as_str(), line.flags.verbosity), (":1", 4));
        assert!(parse(&["--metrics-addr=:1", "preflight"]).is_err(), "flags of a manager mean nothing to it");
    }

    #[test]
    fn of_a_flag_given_twice_the_last_counts_and_gates_add_up() {
        let line = [
            "--v=1",
            "--sync-period=1h",
            "--feature-gates=A=true",
            "--v=5",
            "--sync-period=0",
            "--feature-gates=B=true",
        ];
        let flags = parse(&line).unwrap().flags;
        assert_eq!(flags.verbosity, 5);
        assert_eq!(flags.feature_gates, ["A=true", "B=true"]);
    }

    #[test]
    fn a_subcommand_names_its_installation() {
        let line = parse(&["preflight", "--fix", "--namespace=there", "--release=r"]).unwrap();
        let Some(Command::Preflight { place, fix: true, before_install: false }) = line.command else {
            panic!("{line:?}")
        };
        let installation = place.installation();
        assert_eq!(installation.namespace, "there");
        assert_eq!(
            installation.release,
            Some(Release { name: "r".to_owned(), namespace: "there".to_owned() })
        );
        assert!(parse(&["preflight", "--release-namespace=x"]).is_err());
    }

    #[test]
    fn a_cleanup_says_what_happens_to_objects_or_only_checks() {
        assert!(parse(&["cleanup"]).is_err());
        assert!(parse(&["cleanup", "--check", "--mode=keep"]).is_err());
        assert!(parse(&["cleanup", "--mode=keep", "--crds-kept=true"]).is_err());
        assert!(parse(&["cleanup", "--check", "--crds-kept"]).is_err(), "it is told or it is not");
        assert!(parse(&["cleanup", "--mode=everything"]).is_err());
        for line in [
            &["cleanup", "--check", "--crds-kept=false"][..],
            &["cleanup", "--mode=purge", "--dry-run", "--cascade=orphan"],
        ] {
            assert!(parse(line).is_ok(), "{line:?}");
        }
    }

    #[tokio::test]
    async fn definitions_are_printed_without_a_cluster() {
        let line = parse(&["crds", "print", "--namespace=there"]).unwrap();
        let command = line.command.unwrap();
        assert_eq!(command.kubeconfig(), None);
        let report = command.run(None, Arc::new(|| Timestamp::UNIX_EPOCH)).await.unwrap();
        assert!(
            report.text.contains("name: clonesets.apps.kruise.io")
                && report.text.contains("namespace: there")
        );
    }
}
