//! One simulated container: pulled, started, running, ended, started again. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, ResourceRequirements};
use tokio::time::Instant;

use super::Timings;
use super::images::{self, Registry};
use super::script;
use super::wire::{ContainerSpec, PodView};

/// Now, on both clocks: timers count on the first, what is written down comes from the second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) at: Instant,
    pub(crate) wall: Timestamp,
}

/// An event to publish about the pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Note {
    pub(crate) warning: bool,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    /// `spec.containers{name}`; empty for the pod itself.
    pub(crate) field: String,
}

/// What a container finds on its node.
pub(crate) struct Host<'a> {
    pub(crate) registry: &'a Registry,
    pub(crate) timings: &'a Timings,
    pub(crate) images: &'a mut BTreeSet<String>,
    pub(crate) notes: &'a mut Vec<Note>,
    pub(crate) seed: u64,
}

/// Which list of the pod a container is in.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Class {
    Init,
    /// An init container with `restartPolicy: Always`.
    Sidecar,
    Main,
    Ephemeral,
}

/// How a run of a container ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    pub(crate) reason: String,
    pub(crate) id: String,
    pub(crate) image: String,
    pub(crate) started: Timestamp,
    pub(crate) finished: Timestamp,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Phase {
    /// Not yet its turn.
    Waiting,
    Pulling {
        until: Instant,
        since: Instant,
    },
    /// Shown as `reason` until `shown`, then as a back-off until `retry`.
    PullFailed {
        shown: Instant,
        retry: Instant,
        reason: &'static str,
        message: String,
        backing_off: bool,
    },
    Starting {
        until: Instant,
    },
    Running(Run),
    /// Told to stop; still running to the outside.
    Stopping {
        run: Run,
        until: Instant,
        code: i32,
    },
    /// Ended, see `last`.
    Exited,
    /// Ended, and started again after the back-off.
    CrashLoop {
        until: Instant,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Run {
    pub(crate) id: String,
    pub(crate) since: Timestamp,
    pub(crate) begun: Instant,
    pub(crate) ready: Instant,
    pub(crate) exit: Option<(Instant, i32)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) name: String,
    pub(crate) class: Class,
    /// The image of the spec it was last started with.
    pub(crate) image: String,
    pub(crate) phase: Phase,
    pub(crate) last: Option<Exit>,
    pub(crate) runs: u32,
    pub(crate) ready_override: Option<bool>,
    /// What the runtime has applied.
    pub(crate) resources: ResourceRequirements,
    crashes: u32,
    pull_failures: u32,
}

const BACKOFF: Duration = Duration::from_secs(10);
const MAX_BACKOFF: Duration = Duration::from_mins(5);
/// How long a failed pull is shown with its own reason before the back-off is.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(2);

fn backoff(failures: u32) -> Duration {
    2_u32
        .checked_pow(failures)
        .and_then(|times| BACKOFF.checked_mul(times))
        .unwrap_or(MAX_BACKOFF)
        .min(MAX_BACKOFF)
}

impl Container {
    pub(crate) fn new(spec: &ContainerSpec, class: Class) -> Self {
        Self {
            name: spec.name.clone(),
            class,
            image: spec.image.clone(),
            phase: Phase::Waiting,
            last: None,
            runs: 0,
            ready_override: None,
            resources: spec.resources.clone(),
            crashes: 0,
            pull_failures: 0,
        }
    }

    /// Takes a container over that an earlier run of the simulation has started.
    pub(crate) fn adopt(
        &mut self,
        status: &ContainerStatus,
        pod: &PodView,
        spec: &ContainerSpec,
        now: Moment,
    ) {
        let state = status.state.clone().unwrap_or_default();
        self.runs = u32::try_from(status.restart_count).unwrap_or(0);
        let ended = state
            .terminated
            .as_ref()
            .or(status.last_state.as_ref().and_then(|last| last.terminated.as_ref()));
        let time = |time: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
            time.map_or(now.wall, |time| time.0)
        };
        self.last = ended.map(|ended| Exit {
            code: ended.exit_code,
            reason: ended.reason.clone().unwrap_or_default(),
            id: ended.container_id.clone().unwrap_or_default(),
            image: status.image.clone(),
            started: time(ended.started_at.as_ref()),
            finished: time(ended.finished_at.as_ref()),
        });
        if state.terminated.is_some() {
            self.runs += 1;
            self.phase = Phase::Exited;
        } else if let Some(running) = state.running {
            self.runs += 1;
            let end = script::end(pod, spec, self.class == Class::Init);
            // The image it runs is known by its full name only; the spec's own name is kept when it means the same.
            if images::full_name(&spec.image) != status.image {
                self.image.clone_from(&status.image);
            }
            if let Some(resources) = &status.resources {
                self.resources = resources.clone();
            }
            self.phase = Phase::Running(Run {
                id: status.container_id.clone().unwrap_or_default(),
                since: time(running.started_at.as_ref()),
                begun: now.at,
                ready: now.at,
                exit: end.map(|end| (now.at + end.after, end.code)),
            });
        }
    }

    pub(crate) fn run(&self) -> Option<&Run> {
        match &self.phase {
            Phase::Running(run) | Phase::Stopping { run, .. } => Some(run),
            _ => None,
        }
    }

    pub(crate) fn restarts(&self) -> u32 {
        self.runs.saturating_sub(1)
    }

    /// True when an init container of this state lets the next one start.
    pub(crate) fn lets_pass(&self) -> bool {
        match self.class {
            Class::Sidecar => self.run().is_some(),
            _ => self.succeeded(),
        }
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.phase == Phase::Exited && self.last.as_ref().is_some_and(|last| last.code == 0)
    }

    pub(crate) fn failed(&self) -> bool {
        self.phase == Phase::Exited && self.last.as_ref().is_some_and(|last| last.code != 0)
    }

    pub(crate) fn ready(&self, now: Moment) -> bool {
        match &self.phase {
            Phase::Running(run) | Phase::Stopping { run, .. } => match self.class {
                Class::Ephemeral | Class::Init => false,
                _ => self.ready_override.unwrap_or(run.ready <= now.at),
            },
            _ => self.class == Class::Init && self.succeeded(),
        }
    }

    /// When time alone changes the container next.
    pub(crate) fn wake(&self, now: Moment) -> Option<Instant> {
        match &self.phase {
            Phase::Waiting | Phase::Exited => None,
            Phase::Pulling { until, .. }
            | Phase::Starting { until }
            | Phase::Stopping { until, .. }
            | Phase::CrashLoop { until } => Some(*until),
            Phase::PullFailed { shown, retry, backing_off, .. } => {
                Some(if *backing_off { *retry } else { *shown })
            }
            Phase::Running(run) => {
                let ready = Some(run.ready).filter(|ready| *ready > now.at && self.ready_override.is_none());
                run.exit.map(|(at, _)| at).into_iter().chain(ready).min()
            }
        }
    }

    /// Starts the container: looks for its image, pulls it if need be.
    pub(crate) fn begin(&mut self, spec: &ContainerSpec, host: &mut Host<'_>, now: Moment) {
        self.image.clone_from(&spec.image);
        let name = images::full_name(&spec.image);
        let present = host.images.contains(&name);
        match (spec.image_pull_policy.as_deref(), present) {
            (Some("Never"), false) => {
                let message =
                    format!("Container image \"{}\" is not present with pull policy of Never", spec.image);
                self.note(host, true, "ErrImageNeverPull", message.clone());
                self.note(host, true, "Failed", "Error: ErrImageNeverPull".into());
                self.phase = Phase::PullFailed {
                    shown: now.at + BACKOFF,
                    retry: now.at + BACKOFF,
                    reason: "ErrImageNeverPull",
                    message,
                    backing_off: true,
                };
            }
            (Some("Always"), _) | (_, false) => {
                self.note(host, false, "Pulling", format!("Pulling image \"{}\"", spec.image));
                let time = if present { Duration::ZERO } else { host.registry.pull_time(&spec.image) };
                self.phase = Phase::Pulling { until: now.at + time, since: now.at };
            }
            (_, true) => {
                self.note(
                    host,
                    false,
                    "Pulled",
                    format!("Container image \"{}\" already present on machine", spec.image),
                );
                self.phase = Phase::Starting { until: now.at + host.timings.start };
            }
        }
    }

    /// Does what is due. True if anything has changed.
    pub(crate) fn advance(
        &mut self,
        pod: &PodView,
        spec: &ContainerSpec,
        host: &mut Host<'_>,
        now: Moment,
    ) -> bool {
        match &mut self.phase {
            Phase::Pulling { until, since } if *until <= now.at => {
                let took = now.at.saturating_duration_since(*since);
                self.pulled(spec, host, now, took);
            }
            Phase::PullFailed { backing_off: true, retry, .. } if *retry <= now.at => {
                self.begin(spec, host, now);
            }
            Phase::PullFailed { backing_off, shown, message, reason, .. }
                if !*backing_off && *shown <= now.at =>
            {
                *backing_off = true;
                *message = format!("Back-off pulling image \"{}\": {reason}: {message}", spec.image);
                *reason = "ImagePullBackOff";
                self.note(host, false, "BackOff", format!("Back-off pulling image \"{}\"", spec.image));
                self.note(host, true, "Failed", "Error: ImagePullBackOff".into());
            }
            Phase::Starting { until } if *until <= now.at => self.started(pod, spec, host, now),
            Phase::Running(Run { exit: Some((at, code)), .. }) if *at <= now.at => {
                let code = *code;
                self.exited(code, now);
            }
            Phase::Stopping { until, code, .. } if *until <= now.at => {
                let code = *code;
                self.exited(code, now);
            }
            Phase::CrashLoop { until } if *until <= now.at => self.begin(spec, host, now),
            _ => return false,
        }
        true
    }

    fn pulled(&mut self, spec: &ContainerSpec, host: &mut Host<'_>, now: Moment, took: Duration) {
        if let Some(error) = host.registry.failure(&spec.image) {
            let message = error.to_owned();
            self.note(host, true, "Failed", format!("Failed to pull image \"{}\": {message}", spec.image));
            self.note(host, true, "Failed", "Error: ErrImagePull".into());
            let wait = backoff(self.pull_failures);
            self.pull_failures = self.pull_failures.saturating_add(1);
            self.phase = Phase::PullFailed {
                shown: now.at + PULL_ERROR_SHOWN.min(wait),
                retry: now.at + wait,
                reason: "ErrImagePull",
                message,
                backing_off: false,
            };
            return;
        }
        self.pull_failures = 0;
        host.images.insert(images::full_name(&spec.image));
        let (image, took, size) = (&spec.image, go_duration(took), image_size(&spec.image));
        let message = format!(
            "Successfully pulled image \"{image}\" in {took} ({took} including waiting). Image size: {size} bytes."
        );
        self.note(host, false, "Pulled", message);
        self.phase = Phase::Starting { until: now.at + host.timings.start };
    }

    fn started(&mut self, pod: &PodView, spec: &ContainerSpec, host: &mut Host<'_>, now: Moment) {
        self.note(host, false, "Created", format!("Created container: {}", self.name));
        self.note(host, false, "Started", format!("Started container {}", self.name));
        let id = images::digest(&format!("{}/{}/{}/{}", host.seed, pod.uid(), self.name, self.runs));
        self.runs = self.runs.saturating_add(1);
        self.resources = spec.resources.clone();
        let end = script::end(pod, spec, self.class == Class::Init);
        self.phase = Phase::Running(Run {
            id: format!("containerd://{id}"),
            since: now.wall,
            begun: now.at,
            ready: now.at + script::ready_after(pod, spec).unwrap_or(host.timings.ready),
            exit: end.map(|end| (now.at + end.after, end.code)),
        });
    }

    /// Ends the current run, if there is one.
    pub(crate) fn exited(&mut self, code: i32, now: Moment) {
        if let Some(run) = self.run().cloned() {
            // Ten minutes of good running end the back-off.
            if now.at.saturating_duration_since(run.begun) >= MAX_BACKOFF * 2 {
                self.crashes = 0;
            }
            self.last = Some(Exit {
                code,
                reason: if code == 0 { "Completed" } else { "Error" }.to_owned(),
                id: run.id,
                image: self.image.clone(),
                started: run.since,
                finished: now.wall,
            });
        }
        self.phase = Phase::Exited;
    }

    /// Tells a running container to stop; one that does not run ends where it is.
    pub(crate) fn stop(
        &mut self,
        host: &mut Host<'_>,
        now: Moment,
        within: Duration,
        message: Option<String>,
    ) {
        match &self.phase {
            Phase::Running(run) => {
                let run = run.clone();
                let until = now.at + host.timings.stop.min(within);
                // Whoever is not done in time is killed.
                let code = if host.timings.stop > within { 137 } else { 0 };
                self.phase = Phase::Stopping { run, until, code };
                let message = message.unwrap_or_else(|| format!("Stopping container {}", self.name));
                self.note(host, false, "Killing", message);
            }
            Phase::Stopping { .. } | Phase::Exited => {}
            Phase::CrashLoop { .. } => self.phase = Phase::Exited,
            _ if self.last.is_some() => self.phase = Phase::Exited,
            _ => self.phase = Phase::Waiting,
        }
    }

    /// Starts an ended container again: at once the first time, after a growing back-off then.
    pub(crate) fn restart(
        &mut self,
        spec: &ContainerSpec,
        host: &mut Host<'_>,
        now: Moment,
        because_crashed: bool,
    ) {
        if !because_crashed || self.crashes == 0 {
            self.crashes += u32::from(because_crashed);
            self.begin(spec, host, now);
            return;
        }
        let wait = backoff(self.crashes - 1);
        self.crashes = self.crashes.saturating_add(1);
        self.phase = Phase::CrashLoop { until: now.at + wait };
    }

    /// The delay shown while a crashed container waits.
    pub(crate) fn crash_delay(&self) -> Duration {
        backoff(self.crashes.saturating_sub(2))
    }

    pub(crate) fn note(&self, host: &mut Host<'_>, warning: bool, reason: &'static str, message: String) {
        let list = match self.class {
            Class::Init | Class::Sidecar => "initContainers",
            Class::Main => "containers",
            Class::Ephemeral => "ephemeralContainers",
        };
        let field = format!("spec.{list}{{{}}}", self.name);
        host.notes.push(Note { warning, reason, message, field });
    }
}

/// Bytes of an image, made up from its name.
pub(crate) fn image_size(image: &str) -> u64 {
    let name = images::full_name(image);
    10_000_000 + name.bytes().fold(7_u64, |sum, byte| (sum * 31 + u64::from(byte)) % 90_000_000)
}

/// A duration as Go prints it, to the millisecond: `1.5s`, `20ms`, `1m0s`, `10m0s`.
pub(crate) fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let (minutes, millis) = (millis / 60_000, millis % 60_000);
    let seconds = format!("{}.{:03}", millis / 1000, millis % 1000);
    let seconds = seconds.trim_end_matches('0').trim_end_matches('.');
    match (minutes, millis) {
        (0, 0) => "0s".to_owned(),
        (0, 1..1000) => format!("{millis}ms"),
        (0, _) => format!("{seconds}s"),
        (1..60, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{}h{}m{seconds}s", minutes / 60, minutes % 60),
    }
}
