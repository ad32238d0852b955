//! One pod on a simulated node: in which order its containers start, restart and stop. Pure; time is an argument.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::container::{Class, Container, Host, Moment, Phase};
use super::wire::{ContainerSpec, PodView};

/// What the node's runtime knows of one pod.
#[derive(Clone, Debug)]
pub(crate) struct PodRun {
    pub(crate) containers: Vec<Container>,
    pub(crate) start_time: Timestamp,
    pub(crate) ip: String,
    pub(crate) host_ip: String,
    /// Set once the pod must end: by deletion, by its deadline, by eviction.
    pub(crate) ending: Option<Ending>,
    pub(crate) resize: Resize,
    begun: Instant,
}

/// Why and until when a pod ends.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Ending {
    pub(crate) reason: Option<&'static str>,
    pub(crate) message: Option<&'static str>,
}

/// How far a change of resources in place is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum Resize {
    #[default]
    Done,
    /// Cannot be done now or ever: `Deferred` or `Infeasible`, with the message.
    Pending(&'static str, String),
}

/// Where a pod runs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) ip: String,
    pub(crate) host_ip: String,
    /// Why its current resources cannot be had on the node.
    pub(crate) too_big: Option<(&'static str, String)>,
}

/// The containers of a pod with their classes, in the order in which they start.
fn specs(pod: &PodView) -> impl Iterator<Item = (Class, &ContainerSpec)> {
    let init = pod.spec.init_containers.iter().map(|container| {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        (if sidecar { Class::Sidecar } else { Class::Init }, container)
    });
    let main = pod.spec.containers.iter().map(|container| (Class::Main, container));
    init.chain(main)
        .chain(pod.spec.ephemeral_containers.iter().map(|container| (Class::Ephemeral, container)))
}

fn spec_of<'a>(pod: &'a PodView, name: &str) -> Option<&'a ContainerSpec> {
    specs(pod).map(|(_, spec)| spec).find(|spec| spec.name == name)
}

impl PodRun {
    /// A pod that has just come to the node; one with a status is taken over from an earlier run.
    pub(crate) fn new(pod: &PodView, place: &Place, now: Moment) -> Self {
        let status = &pod.status;
        let known = || {
            status
                .init_container_statuses
                .iter()
                .chain(&status.container_statuses)
                .chain(&status.ephemeral_container_statuses)
        };
        let containers = specs(pod)
            .map(|(class, spec)| {
                let mut container = Container::new(spec, class);
                if let Some(status) = known().find(|status| status.name == spec.name) {
                    container.adopt(status, pod, spec, now);
                }
                container
            })
            .collect();
        let start_time = status.start_time.as_ref().map_or(now.wall, |time| time.0);
        let ip = status.pod_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| place.ip.clone());
        Self {
            containers,
            start_time,
            ip,
            host_ip: place.host_ip.clone(),
            ending: None,
            resize: Resize::Done,
            begun: now.at,
        }
    }

    /// Does everything that is due, and says when to look again.
    pub(crate) fn step(
        &mut self,
        pod: &PodView,
        place: &Place,
        host: &mut Host<'_>,
        now: Moment,
    ) -> Option<Instant> {
        self.add_new(pod);
        // Each round lets every container take one step; zero delays make a start one call. The bound only guards
        // against a container that exits and restarts without any delay.
        for _ in 0..64 {
            let mut changed = self.advance(pod, host, now);
            changed |= self.decide(pod, place, host, now);
            if !changed {
                break;
            }
        }
        let deadline = self.deadline(pod).filter(|_| self.ending.is_none() && !self.phase(pod).is_terminal());
        self.containers.iter().filter_map(|container| container.wake(now)).chain(deadline).min()
    }

    /// Ephemeral containers come while the pod runs.
    fn add_new(&mut self, pod: &PodView) {
        for (class, spec) in specs(pod) {
            if !self.containers.iter().any(|container| container.name == spec.name) {
                self.containers.push(Container::new(spec, class));
            }
        }
    }

    fn deadline(&self, pod: &PodView) -> Option<Instant> {
        let seconds = pod.spec.active_deadline_seconds.and_then(|seconds| u64::try_from(seconds).ok())?;
        self.begun.checked_add(Duration::from_secs(seconds))
    }

    fn advance(&mut self, pod: &PodView, host: &mut Host<'_>, now: Moment) -> bool {
        let mut changed = false;
        for container in &mut self.containers {
            if let Some(spec) = spec_of(pod, &container.name) {
                changed |= container.advance(pod, spec, host, now);
            }
        }
        changed
    }

    /// Starts, restarts and stops what the pod asks for now.
    fn decide(&mut self, pod: &PodView, place: &Place, host: &mut Host<'_>, now: Moment) -> bool {
        if self.ending.is_none() {
            self.ending = self.must_end(pod, now);
        }
        if self.ending.is_some() {
            let grace =
                pod.metadata.deletion_grace_period_seconds.or(pod.spec.termination_grace_period_seconds);
            return self.stop_all(grace_of(grace), host, now);
        }
        self.apply_changes(pod, place, host, now)
            || self.start_due(pod, host, now)
            || self.restart_due(pod, host, now)
            || self.stop_sidecars(pod, host, now)
    }

    fn must_end(&self, pod: &PodView, now: Moment) -> Option<Ending> {
        if pod.deleting() {
            return Some(Ending { reason: None, message: None });
        }
        let late = self.deadline(pod).is_some_and(|deadline| deadline <= now.at);
        if late && !self.phase(pod).is_terminal() {
            let message = "Pod was active on the node longer than the specified deadline";
            return Some(Ending { reason: Some("DeadlineExceeded"), message: Some(message) });
        }
        None
    }

    fn stop_all(&mut self, grace: Duration, host: &mut Host<'_>, now: Moment) -> bool {
        let mut changed = false;
        for container in &mut self.containers {
            let before = std::mem::discriminant(&container.phase);
            container.stop(host, now, grace, None);
            changed |= std::mem::discriminant(&container.phase) != before;
        }
        changed
    }

    /// Brings images and resources changed in place to running containers.
    fn apply_changes(&mut self, pod: &PodView, place: &Place, host: &mut Host<'_>, now: Moment) -> bool {
        let grace = grace_of(pod.spec.termination_grace_period_seconds);
        let mut changed = false;
        let mut resized = false;
        for container in &mut self.containers {
            let Some(spec) = spec_of(pod, &container.name) else { continue };
            let wanted = &spec.image;
            match container.phase {
                Phase::Running(_) if *wanted != container.image => {
                    let kind = if container.class == Class::Main { "Container" } else { "Init container" };
                    let message = format!("{kind} {} definition changed, will be restarted", container.name);
                    container.stop(host, now, grace, Some(message));
                    changed = true;
                }
                Phase::Pulling { .. } | Phase::PullFailed { .. } if *wanted != container.image => {
                    container.begin(spec, host, now);
                    changed = true;
                }
                Phase::Running(_) if spec.resources != container.resources => {
                    resized = true;
                    if place.too_big.is_none() {
                        if needs_restart(spec, container) {
                            let message = format!("Container {} resize requires restart", container.name);
                            container.stop(host, now, grace, Some(message));
                        } else {
                            container.resources = spec.resources.clone();
                        }
                        changed = true;
                    }
                }
                _ => {}
            }
        }
        self.resize = match &place.too_big {
            Some((reason, message)) if resized => Resize::Pending(reason, message.clone()),
            _ => Resize::Done,
        };
        changed
    }

    /// Starts the containers whose turn it is.
    fn start_due(&mut self, pod: &PodView, host: &mut Host<'_>, now: Moment) -> bool {
        let mut changed = false;
        for container in &mut self.containers {
            let Some(spec) = spec_of(pod, &container.name) else { continue };
            if container.phase == Phase::Waiting {
                container.begin(spec, host, now);
                changed = true;
            }
            if matches!(container.class, Class::Init | Class::Sidecar) && !container.lets_pass() {
                // Once through, a sidecar that restarts holds nobody up.
                if container.runs <= 1 || container.class == Class::Init {
                    break;
                }
            }
        }
        changed
    }

    fn restart_due(&mut self, pod: &PodView, host: &mut Host<'_>, now: Moment) -> bool {
        let policy = pod.spec.restart_policy.as_deref().unwrap_or("Always");
        let over = self.phase(pod).is_terminal();
        let mut changed = false;
        for container in &mut self.containers {
            let Some(spec) = spec_of(pod, &container.name) else { continue };
            if container.phase != Phase::Exited || over {
                continue;
            }
            let failed = container.failed();
            let replaced = spec.image != container.image || spec.resources != container.resources;
            let again = match container.class {
                Class::Ephemeral => false,
                Class::Sidecar => true,
                Class::Init => failed && policy != "Never",
                Class::Main => policy == "Always" || replaced || (failed && policy == "OnFailure"),
            };
            if again {
                container.restart(spec, host, now, !replaced);
                changed = true;
                if matches!(container.phase, Phase::CrashLoop { .. }) {
                    let message = format!(
                        "Back-off restarting failed container {} in pod {}_{}({})",
                        container.name,
                        pod.metadata.name.as_deref().unwrap_or_default(),
                        pod.metadata.namespace.as_deref().unwrap_or_default(),
                        pod.uid()
                    );
                    container.note(host, true, "BackOff", message);
                }
            }
        }
        changed
    }

    /// Sidecars of a pod whose work is done are stopped.
    fn stop_sidecars(&mut self, pod: &PodView, host: &mut Host<'_>, now: Moment) -> bool {
        if !self.mains_done(pod) {
            return false;
        }
        let grace = grace_of(pod.spec.termination_grace_period_seconds);
        let mut changed = false;
        for container in &mut self.containers {
            if matches!(container.phase, Phase::Running(_)) && container.class != Class::Main {
                container.stop(host, now, grace, None);
                changed = true;
            }
        }
        changed
    }

    /// True when no regular container will run again.
    fn mains_done(&self, pod: &PodView) -> bool {
        let policy = pod.spec.restart_policy.as_deref().unwrap_or("Always");
        let init_failed = policy == "Never"
            && self.containers.iter().any(|container| container.class == Class::Init && container.failed());
        let mut mains = self.containers.iter().filter(|container| container.class == Class::Main);
        init_failed
            || mains.all(|container| match policy {
                "Never" => container.phase == Phase::Exited,
                "OnFailure" => container.succeeded(),
                _ => false,
            })
    }

    /// True once nothing of the pod runs any more.
    pub(crate) fn stopped(&self) -> bool {
        self.containers.iter().all(|container| matches!(container.phase, Phase::Exited | Phase::Waiting))
    }

    /// The pod's phase.
    pub(crate) fn phase(&self, pod: &PodView) -> PodPhase {
        if let Some(ending) = &self.ending
            && self.stopped()
        {
            let main = || self.containers.iter().filter(|container| container.class == Class::Main);
            // A pod whose containers never ran has nothing to show for a success.
            let succeeded = ending.reason.is_none() && main().all(Container::succeeded);
            return if succeeded { PodPhase::Succeeded } else { PodPhase::Failed };
        }
        if pod.ended() && self.stopped() {
            let failed = pod.status.phase.as_deref() == Some("Failed");
            return if failed { PodPhase::Failed } else { PodPhase::Succeeded };
        }
        if self.mains_done(pod) && self.stopped() {
            let failed = |container: &Container| {
                matches!(container.class, Class::Main | Class::Init) && container.failed()
            };
            return if self.containers.iter().any(failed) { PodPhase::Failed } else { PodPhase::Succeeded };
        }
        let begun = |container: &Container| container.class != Class::Main || container.runs > 0;
        let init_done =
            self.containers.iter().all(|container| container.class != Class::Init || container.succeeded());
        if init_done && self.containers.iter().all(begun) { PodPhase::Running } else { PodPhase::Pending }
    }

    /// Ends the named container's current run with `code`. True if it was running.
    pub(crate) fn crash(&mut self, name: &str, code: i32, now: Moment) -> bool {
        let running =
            self.containers.iter_mut().find(|container| container.name == name && container.run().is_some());
        running.map(|container| container.exited(code, now)).is_some()
    }
}

/// A pod's `status.phase`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum PodPhase {
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl PodPhase {
    pub(crate) fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

fn grace_of(seconds: Option<i64>) -> Duration {
    Duration::from_secs(u64::try_from(seconds.unwrap_or(30)).unwrap_or(0))
}

/// True if a changed resource says in its resize policy that the container must restart for it.
fn needs_restart(spec: &ContainerSpec, container: &Container) -> bool {
    let part = |which: Option<&std::collections::BTreeMap<String, _>>, name: &str| {
        which.and_then(|amounts| amounts.get(name)).cloned()
    };
    spec.resize_policy.iter().filter(|policy| policy.restart_policy == "RestartContainer").any(|policy| {
        let name = policy.resource_name.as_str();
        part(spec.resources.requests.as_ref(), name) != part(container.resources.requests.as_ref(), name)
            || part(spec.resources.limits.as_ref(), name) != part(container.resources.limits.as_ref(), name)
    })
}
