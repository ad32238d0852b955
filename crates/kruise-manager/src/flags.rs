//! The command line: names and defaults are those operators already use, so a Deployment's arguments carry over.

use std::time::Duration;

use clap::Parser;
use kruise_common::go_duration::go_duration;

/// Runs the workload controllers of Kruise and their admission and conversion webhooks.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
#[derive(Clone, Debug, Parser)]
#[command(name = "kruise-manager", version, disable_help_subcommand = true, args_override_self = true)]
pub struct Flags {
    /// Address of the plain-HTTP metrics endpoint; "0" disables it.
    #[arg(long, default_value = ":8080")]
    pub metrics_addr: String,
    /// Address of the health endpoints; "0" or empty disables them.
    #[arg(long, default_value = ":8000")]
    pub health_probe_addr: String,
    /// Tell the figures of each workload as metrics: seven series each.
    #[arg(long, default_value = "false", default_missing_value = "true", num_args = 0..=1, require_equals = true, value_parser = go_bool, action = clap::ArgAction::Set)]
    pub workload_metrics: bool,
    /// Serve what the process knows about its time and memory, without any check of who asks.
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true, value_parser = go_bool, action = clap::ArgAction::Set)]
    pub enable_pprof: bool,
    /// Address of that; only this host can reach the default.
    #[arg(long, default_value = "localhost:8090")]
    pub pprof_addr: String,
    /// Lead only while holding the Lease; off, this process acts as leader at once.
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true, value_parser = go_bool, action = clap::ArgAction::Set)]
    pub enable_leader_election: bool,
    /// Namespace of the leader election Lease; empty is that of the pod.
    #[arg(long, default_value = "kruise-system")]
    pub leader_election_namespace: String,
    /// Name of the leader election Lease.
    #[arg(long, default_value = "kruise-manager")]
    pub leader_election_id: String,
    /// Kind of the lock; only "leases" exists.
    #[arg(long, default_value = "leases", value_parser = ["leases"])]
    pub leader_election_resource_lock: String,
    /// How long other candidates wait for a silent leader.
    #[arg(long, default_value = "15s", value_parser = go_duration)]
    pub leader_election_lease_duration: Duration,
    /// How long the leader tries to renew before it gives up.
    #[arg(long, default_value = "10s", value_parser = go_duration)]
    pub leader_election_renew_deadline: Duration,
    /// Pause between tries to acquire or renew.
    #[arg(long, default_value = "2s", value_parser = go_duration)]
    pub leader_election_retry_period: Duration,
    /// Watch one namespace only; empty watches all.
    #[arg(long, default_value = "")]
    pub namespace: String,
    /// Comma list of Name=true|false; may be repeated.
    #[arg(long)]
    pub feature_gates: Vec<String>,
    /// Which controllers run: names, "*" for all, "-name" to leave one out.
    #[arg(long, default_value = "*", allow_hyphen_values = true)]
    pub controllers: String,
    /// Parallel reconciles of AdvancedCronJobs.
    #[arg(long, default_value_t = 3)]
    pub advancedcronjob_workers: usize,
    /// Parallel reconciles of BroadcastJobs.
    #[arg(long, default_value_t = 3)]
    pub broadcastjob_workers: usize,
    /// Leave it to the scheduler to bind the pods of BroadcastJobs to the nodes they are for, by their affinity; off, they
    /// are bound when they are created.
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true, value_parser = go_bool, action = clap::ArgAction::Set)]
    pub assign_bcj_pods_by_scheduler: bool,
    /// Parallel reconciles of CloneSets.
    #[arg(long, default_value_t = 3)]
    pub cloneset_workers: usize,
    /// Do not count pods that are being prepared for deletion as replicas when scaling CloneSets.
    #[arg(long, default_value = "false", default_missing_value = "true", num_args = 0..=1, require_equals = true, value_parser = go_bool, action = clap::ArgAction::Set)]
    pub cloneset_scaling_exclude_preparing_delete: bool,
    /// Parallel reconciles of ContainerRecreateRequests.
    #[arg(long, default_value_t = 3)]
    pub crr_workers: usize,
    /// Parallel reconciles of ImagePullJobs.
    #[arg(long, default_value_t = 3)]
    pub imagepulljob_workers: usize,
    /// Parallel reconciles of NodeImages.
    #[arg(long, default_value_t = 3)]
    pub nodeimage_workers: usize,
    /// For how long a node is ready before it gets a NodeImage.
    #[arg(long, default_value = "30s", value_parser = go_duration)]
    pub nodeimage_creation_delay: Duration,
    /// Seconds, 0 to 2678400, that NodeImages keep the entries of finished pulls beyond what their jobs say.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(0..=2_678_400))]
    pub default_ttlseconds_for_always_nodeimage: u32,
    /// How many nodes are asked at once to pull from one registry, over all jobs; 0 is no limit.
    #[arg(long, default_value_t = 0)]
    pub max_pulls_per_registry: usize,
    /// First delay of a failing key; doubles with every failure.
    #[arg(long, default_value = "5ms", value_parser = go_duration)]
    pub rate_limiter_base_delay: Duration,
    /// Longest delay of a failing key.
    #[arg(long, default_value = "1000s", value_parser = go_duration)]
    pub rate_limiter_max_delay: Duration,
    /// Retries per second over all keys of a controller.
    #[arg(long, default_value_t = 10.0)]
    pub rate_limiter_qps: f64,
    /// Retries that may be taken at once over all keys of a controller.
    #[arg(long, default_value_t = 100)]
    pub rate_limiter_bucket_size: u32,
    /// Level of detail: 0 errors and changes … 5 and more everything.
    #[arg(short = 'v', long = "v", default_value_t = 0)]
    pub verbosity: u8,
    /// Format of log lines: text or json.
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    pub logging_format: String,
    /// Path of a kubeconfig; empty tries KUBECONFIG, the in-cluster configuration and ~/.kube/config.
    #[arg(long, default_value = "")]
    pub kubeconfig: String,
    /// How long the start may wait for webhooks to be set up.
    #[arg(long, default_value = "60s", value_parser = go_duration)]
    pub webhook_initialize_timeout: Duration,
    /// Directory of protection.log, which tells of refused deletions; they go to the log of the process if it is empty
    /// or cannot be written.
    #[arg(long, default_value = "/log")]
    pub protection_log_path: String,
    /// Templates of pods may have privileged containers, if the API server lets them.
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true, value_parser = go_bool, action = clap::ArgAction::Set)]
    pub allow_privileged: bool,
    /// Flags without effect here.
    #[command(flatten)]
    pub accepted: Accepted,
}

/// Flags that existing Deployments may pass and that have nothing to change here: parsed and ignored.
#[derive(Clone, Debug, clap::Args)]
pub struct Accepted {
    #[arg(long, hide = true)]
    sync_period: Option<String>,
    #[arg(long, hide = true)]
    rest_config_qps: Option<String>,
    #[arg(long, hide = true)]
    rest_config_burst: Option<String>,
    #[arg(long, hide = true)]
    controller_cache_sync_timeout: Option<String>,
    #[arg(long, hide = true)]
    expectation_timeout: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    disable_no_deepcopy: Option<String>,
    #[arg(long, hide = true)]
    ws_enabled_versioned_status: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    assign_pods_by_scheduler: Option<String>,
    #[arg(long, hide = true)]
    daemonset_workers: Option<usize>,
    #[arg(long, hide = true)]
    nodepodprobe_workers: Option<usize>,
    #[arg(long, hide = true)]
    persistentpodstate_workers: Option<usize>,
    #[arg(long, hide = true)]
    podprobemarker_workers: Option<usize>,
    #[arg(long, hide = true)]
    podunavailablebudget_workers: Option<usize>,
    #[arg(long, hide = true)]
    resourcedistribution_workers: Option<usize>,
    #[arg(long, hide = true)]
    sidecarset_workers: Option<usize>,
    #[arg(long, hide = true)]
    sidecarterminator_workers: Option<usize>,
    #[arg(long, hide = true)]
    statefulset_workers: Option<usize>,
    #[arg(long, hide = true)]
    uniteddeployment_workers: Option<usize>,
    #[arg(long, hide = true)]
    workloadspread_workers: Option<usize>,
    #[arg(long, hide = true)]
    vmodule: Option<String>,
    #[arg(long, hide = true)]
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
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    log_text_split_stream: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, require_equals = true)]
    log_json_split_stream: Option<String>,
    #[arg(long, hide = true)]
    log_text_info_buffer_size: Option<String>,
    #[arg(long, hide = true)]
    log_json_info_buffer_size: Option<String>,
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
        Flags::try_parse_from(std::iter::once("kruise-manager").chain(args.iter().copied())).unwrap()
    }

    #[test]
    fn no_flags_means_the_documented_defaults() {
        let flags = parse(&[]);
        assert_eq!(flags.metrics_addr, ":8080");
        assert_eq!(flags.health_probe_addr, ":8000");
        assert_eq!(flags.leader_election_namespace, "kruise-system");
        assert_eq!(flags.leader_election_lease_duration, Duration::from_secs(15));
        assert_eq!(flags.rate_limiter_base_delay, Duration::from_millis(5));
        assert!(flags.enable_leader_election && flags.enable_pprof);
        assert_eq!(flags.pprof_addr, "localhost:8090");
        assert_eq!((flags.imagepulljob_workers, flags.nodeimage_workers), (3, 3));
        assert!(flags.broadcastjob_workers == 3 && flags.assign_bcj_pods_by_scheduler);
        assert_eq!(flags.nodeimage_creation_delay, Duration::from_secs(30));
        assert_eq!(flags.default_ttlseconds_for_always_nodeimage, 300);
    }

    #[test]
    fn an_existing_deployments_arguments_are_accepted() {
        let flags = parse(&[
            "--enable-leader-election",
            "--metrics-addr=:8080",
            "--health-probe-addr=:8000",
            "--logtostderr=true",
            "--leader-election-namespace=kruise-system",
            "--v=4",
            "--feature-gates=ImagePullJobGate=true",
            "--sync-period=0",
            "--log_dir=/tmp",
        ]);
        assert_eq!(flags.verbosity, 4);
        assert_eq!(flags.feature_gates, ["ImagePullJobGate=true"]);
    }

    #[test]
    fn entries_of_node_images_are_kept_for_a_month_at_most() {
        let parse = |seconds: &str| {
            let flag = format!("--default-ttlseconds-for-always-nodeimage={seconds}");
            Flags::try_parse_from(["m", &flag]).map(|flags| flags.default_ttlseconds_for_always_nodeimage)
        };
        assert_eq!((parse("0").unwrap(), parse("2678400").unwrap()), (0, 2_678_400));
        assert!(parse("2678401").is_err() && parse("-1").is_err());
    }

    #[test]
    fn switches_take_the_spellings_of_go() {
        for (text, value) in [("1", true), ("t", true), ("False", false), ("0", false)] {
            assert_eq!(parse(&[&format!("--enable-leader-election={text}")]).enable_leader_election, value);
        }
        assert!(Flags::try_parse_from(["m", "--enable-leader-election=yes"]).is_err());
    }
}
