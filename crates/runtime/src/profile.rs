//! What a process can tell about where its time and memory go, below the path where Go programs serve profiles.
//!
//! There is no sampling profiler inside: what Go's tools ask for is answered with how to get it from outside.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use axum::Router;
use axum::extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::metrics::TICKS_PER_SECOND;

const INDEX: &str = "\
/debug/pprof/

cmdline   the command line
memory    the kernel's account of this process's memory
runtime   workers and tasks of the async runtime
threads   processor time of every thread so far

profile, heap and the others that Go programs have are not served: no profiler runs inside this process.
";

/// `/debug/pprof/` and what is below it.
pub fn router() -> Router {
    Router::new()
        .route("/debug/pprof/", get(async || text(INDEX.to_owned())))
        .route("/debug/pprof/{name}", get(async |extract::Path(name): extract::Path<String>| answer(&name)))
}

fn answer(name: &str) -> Response {
    let told = match name {
        // As Go has it: separated by NUL, with none at the end.
        "cmdline" => {
            fs::read_to_string("/proc/self/cmdline").map(|line| line.trim_end_matches('\0').to_owned())
        }
        "memory" => fs::read_to_string("/proc/self/smaps_rollup"),
        "threads" => threads(Path::new("/proc/self/task")),
        "runtime" => Ok(tasks()),
        "profile" | "heap" | "allocs" | "block" | "mutex" | "goroutine" | "threadcreate" | "trace"
        | "symbol" => {
            return (StatusCode::NOT_IMPLEMENTED, from_outside(name)).into_response();
        }
        _ => return (StatusCode::NOT_FOUND, format!("unknown profile {name}\n")).into_response(),
    };
    match told {
        Ok(told) => text(told),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

fn text(body: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response()
}

fn from_outside(name: &str) -> String {
    let pid = std::process::id();
    format!(
        "{name} is not served: no profiler runs inside this process.\n\
         On its node, perf shows where the time goes: perf record --call-graph=dwarf --pid <its pid there> -- sleep 30\n\
         (inside its container the pid is {pid}). threads and memory here say how much of both there is.\n"
    )
}

/// Every thread with its processor time, the busiest first.
fn threads(directory: &Path) -> std::io::Result<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        // A thread that has ended meanwhile has no files.
        let (Ok(name), Ok(stat)) =
            (fs::read_to_string(path.join("comm")), fs::read_to_string(path.join("stat")))
        else {
            continue;
        };
        found.push((seconds(&stat).unwrap_or_default(), name.trim().to_owned()));
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let mut told = "cpu seconds  thread\n".to_owned();
    for (seconds, name) in found {
        let _ = writeln!(told, "{seconds:>11.2}  {name}");
    }
    Ok(told)
}

/// User and system time of a `stat` line.
fn seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

fn tasks() -> String {
    let metrics = tokio::runtime::Handle::current().metrics();
    format!(
        "workers {}\nalive tasks {}\nqueued tasks {}\n",
        metrics.num_workers(),
        metrics.num_alive_tasks(),
        metrics.global_queue_depth()
    )
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    async fn fetch(path: &str) -> (u16, String) {
        let response = router().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn everything_the_index_names_is_served() {
        let (status, index) = fetch("/debug/pprof/").await;
        assert_eq!(status, 200);
        let names: Vec<&str> = index
            .lines()
            .skip(2)
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split(' ').next())
            .collect();
        assert_eq!(names.len(), 4);
        for name in names {
            let (status, body) = fetch(&format!("/debug/pprof/{name}")).await;
            assert_eq!((status, body.is_empty()), (200, false), "{name}");
        }
        assert!(fetch("/debug/pprof/runtime").await.1.contains("alive tasks"));
        assert!(fetch("/debug/pprof/memory").await.1.contains("Pss"));
    }

    #[tokio::test]
    async fn what_only_go_has_is_refused_with_what_to_do_instead() {
        let (status, body) = fetch("/debug/pprof/profile?seconds=5").await;
        assert_eq!(status, 501);
        assert!(body.contains("perf record"), "{body}");
        assert_eq!(fetch("/debug/pprof/nothing").await.0, 404);
    }

    #[test]
    fn processor_time_is_read_behind_whatever_name_a_thread_has() {
        let stat = "7 (tokio) 1) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 100 0 0";
        assert_eq!(seconds(stat), Some(2.0));
        assert_eq!(seconds("7 (x)"), None);
    }
}
