//! The command line: names and defaults are those operators already use, so a DaemonSet's arguments carry over.

use clap::Parser;

use crate::disk::Floor;

/// Pulls images, restarts containers and reports what runs on one node.
#[derive(Clone, Debug, Parser)]
#[command(name = "kruise-daemon", version, disable_help_subcommand = true, args_override_self = true)]
pub struct Flags {
    /// Address of the plain-HTTP metrics and health endpoints; "0" or empty disables them.
    #[arg(long, default_value = ":10221")]
    pub addr: String,
    /// How many images are pulled at once; 0 and less is no limit.
    #[arg(long, default_value_t = -1, allow_hyphen_values = true)]
    pub max_workers_for_pull_image: i64,
    /// How many images are pulled from one registry at once; 0 and less is no limit.
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub max_pulls_per_registry: i64,
    /// What must stay free on the disk of the images before a pull begins: a percentage, or bytes as in 10Gi; 0 is no limit.
    #[arg(long, default_value = "5%")]
    pub min_free_disk: Floor,
    /// A path on the disk of the images. The agent's own root is on it, where the same runtime keeps both.
    #[arg(long, default_value = "/")]
    pub image_disk: std::path::PathBuf,
    /// Try without credentials when all that match were refused.
    #[arg(long, default_value = "false", default_missing_value = "true", num_args = 0..=1, require_equals = true, value_parser = go_bool, action = clap::ArgAction::Set)]
    pub anonymous_pull_fallback: bool,
    /// Configuration of the kubelet's credential provider plugins; none are used when there is no such file.
    #[arg(long, default_value = "/kruise/CredentialProviderPlugin.yaml")]
    pub plugin_config_file: std::path::PathBuf,
    /// Where the programs of those plugins are.
    #[arg(long, default_value = "/kruise/plugins")]
    pub plugin_bin_dir: std::path::PathBuf,
    /// Socket of the container runtime, below the host's /var/run; empty looks in the usual places.
    #[arg(long, default_value = "")]
    pub socket_file: String,
    /// Where the host's /var/run is mounted.
    #[arg(long, default_value = crate::cri::discover::HOST_RUN)]
    pub host_run: std::path::PathBuf,
    /// Comma list of Name=true|false; may be repeated.
    #[arg(long)]
    pub feature_gates: Vec<String>,
    /// Path of a kubeconfig; empty tries KUBECONFIG, the in-cluster configuration and ~/.kube/config.
    #[arg(long, default_value = "")]
    pub kubeconfig: String,
    /// Level of detail: 0 errors and changes … 5 and more everything.
    #[arg(short = 'v', long = "v", default_value_t = 0)]
    pub verbosity: u8,
    /// Name of the node this runs on.
    #[arg(long, env = "NODE_NAME", default_value = "", hide = true)]
    pub node_name: String,
    /// Flags without effect here.
    #[command(flatten)]
    pub accepted: Accepted,
}

/// Flags that existing DaemonSets may pass and that have nothing to change here: parsed and ignored.
#[derive(Clone, Debug, clap::Args)]
pub struct Accepted {
    /// Accepted; no profiling endpoint is served.
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    enable_pprof: Option<String>,
    #[arg(long, hide = true)]
    pprof_addr: Option<String>,
    #[arg(long, hide = true)]
    rest_config_qps: Option<String>,
    #[arg(long, hide = true)]
    rest_config_burst: Option<String>,
    #[arg(long, hide = true)]
    vmodule: Option<String>,
    #[arg(long, hide = true, alias = "log_flush_frequency")]
    log_flush_frequency: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    logtostderr: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    alsologtostderr: Option<String>,
    #[arg(long, hide = true)]
    stderrthreshold: Option<String>,
    #[arg(long, hide = true, alias = "log_dir")]
    log_dir: Option<String>,
    #[arg(long, hide = true, alias = "log_file")]
    log_file: Option<String>,
    #[arg(long, hide = true, alias = "log_file_max_size")]
    log_file_max_size: Option<String>,
    #[arg(long, hide = true, alias = "log_backtrace_at")]
    log_backtrace_at: Option<String>,
    #[arg(long, hide = true, alias = "one_output", num_args = 0..=1, require_equals = true)]
    one_output: Option<String>,
    #[arg(long, hide = true, alias = "add_dir_header", num_args = 0..=1, require_equals = true)]
    add_dir_header: Option<String>,
    #[arg(long, hide = true, alias = "skip_headers", num_args = 0..=1, require_equals = true)]
    skip_headers: Option<String>,
    #[arg(long, hide = true, alias = "skip_log_headers", num_args = 0..=1, require_equals = true)]
    skip_log_headers: Option<String>,
}

fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("{text:?} is neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Flags {
        Flags::try_parse_from(std::iter::once("kruise-daemon").chain(args.iter().copied())).unwrap()
    }

    #[test]
    fn no_flags_means_the_documented_defaults() {
        let flags = parse(&[]);
        assert_eq!(flags.addr, ":10221");
        assert_eq!(flags.max_workers_for_pull_image, -1);
        assert_eq!(flags.socket_file, "");
        assert_eq!(flags.host_run.to_str(), Some("/hostvarrun"));
        assert_eq!((flags.min_free_disk, flags.image_disk.to_str()), (Floor::Percent(5), Some("/")));
        assert!(!flags.anonymous_pull_fallback);
    }

    #[test]
    fn an_existing_daemonsets_arguments_are_accepted() {
        let flags = parse(&[
            "--logtostderr=true",
            "--v=4",
            "--addr=:10221",
            "--feature-gates=ImagePullJobGate=true",
            "--socket-file=containerd/containerd.sock",
            "--max-workers-for-pull-image=2",
            "--pprof-addr=localhost:10222",
            "--enable-pprof",
            "--plugin-config-file=/kruise/CredentialProviderPlugin.yaml",
            "--plugin-bin-dir=/kruise/plugins",
            "--rest-config-qps=30",
            "--log_dir=/tmp",
        ]);
        assert_eq!((flags.verbosity, flags.max_workers_for_pull_image), (4, 2));
        assert_eq!(flags.feature_gates, ["ImagePullJobGate=true"]);
        assert_eq!(flags.plugin_bin_dir.to_str(), Some("/kruise/plugins"));
        let twice = parse(&["--min-free-disk=1Gi", "--min-free-disk=10%"]);
        assert_eq!(
            twice.min_free_disk,
            Floor::Percent(10),
            "the last one counts, as for every Kubernetes component"
        );
        assert_eq!(parse(&["--max-workers-for-pull-image", "-1"]).max_workers_for_pull_image, -1);
    }
}
