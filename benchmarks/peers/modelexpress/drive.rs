//! Drives `RedisRegistryBackend` of the release of `modelexpress-server` that the including crate depends on.
//!
//! A line of standard input is a job: `<what> <tasks> <count> <models> <tag>`. It is prepared and warmed up,
//! then `{}` is said; the line `go` starts it, and the next line of standard output is its result, as JSON.
//! `benchmarks/driver.py` says what the jobs are, and does the same in Python.

use modelexpress_common::models::{ModelProvider, ModelStatus};
use modelexpress_server::registry::backend::RegistryBackend;
use modelexpress_server::registry::backend::redis::RedisRegistryBackend;
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// One call in so many is timed: what the clock costs must not count.
const SAMPLE: usize = 17;
const PROVIDER: ModelProvider = ModelProvider::HuggingFace;

fn name(tag: &str, number: usize) -> String {
    format!("organisation/{tag}-{number:012}")
}

/// One call; whether it won, or found what it asked for.
async fn call(backend: &RedisRegistryBackend, what: &str, model: &str) -> bool {
    match what {
        "claim_fresh" | "claim_contended" => crate::claim(backend, model).await,
        "get_status" => backend.get_status(model).await.expect(what).is_some(),
        "get_model_record" => backend.get_model_record(model).await.expect(what).is_some(),
        "touch_model" => {
            backend.touch_model(model).await.expect(what);
            true
        }
        "set_status" => {
            let done = backend.set_status(model, PROVIDER, ModelStatus::DOWNLOADED, None);
            done.await.expect(what);
            true
        }
        "hot_path" => {
            let status = backend.get_status(model).await.expect(what);
            backend.touch_model(model).await.expect(what);
            status == Some(ModelStatus::DOWNLOADED)
        }
        "lru_head" => !backend
            .get_models_by_last_used(Some(10))
            .await
            .expect(what)
            .is_empty(),
        "counts" => backend.get_status_counts().await.expect(what).1 > 0,
        other => panic!("no such job: {other}"),
    }
}

/// All calls of one job, by so many tasks; seconds, how many won, and the latencies that were taken.
async fn run(
    backend: &Arc<RedisRegistryBackend>,
    what: &str,
    tasks: usize,
    count: usize,
    models: usize,
    tag: &str,
) -> (f64, usize, Vec<f64>) {
    let won = Arc::new(AtomicUsize::new(0));
    let names: Arc<Vec<String>> = Arc::new((0..models).map(|number| name(tag, number)).collect());
    let begun = Instant::now();
    let mut running = Vec::with_capacity(tasks);
    for first in 0..tasks {
        let (backend, won, names) = (backend.clone(), won.clone(), names.clone());
        let what = what.to_string();
        running.push(tokio::spawn(async move {
            let (mut mine, mut taken) = (0, Vec::new());
            for number in (first..count).step_by(tasks) {
                let sent = (number % SAMPLE == 0).then(Instant::now);
                if call(&backend, &what, &names[number % models]).await {
                    mine += 1;
                }
                if let Some(sent) = sent {
                    taken.push(sent.elapsed().as_secs_f64());
                }
            }
            won.fetch_add(mine, Ordering::Relaxed);
            taken
        }));
    }
    let mut taken = Vec::new();
    for task in running {
        taken.extend(task.await.expect("a task failed"));
    }
    (
        begun.elapsed().as_secs_f64(),
        won.load(Ordering::Relaxed),
        taken,
    )
}

fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = (share * sorted.len() as f64) as usize;
    sorted
        .get(at.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(0.0)
}

/// CPU time that this process has used, in seconds.
fn cpu() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the clock exists on every POSIX system, and `time` is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("standard output");
}

pub fn main() {
    let url = std::env::args().nth(1).expect("the URL of the server");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let backend = Arc::new(RedisRegistryBackend::new(&url));
    runtime.block_on(backend.connect()).expect("a connection");
    say("{}");
    let mut lines = std::io::stdin().lock().lines();
    while let Some(line) = lines.next() {
        let line = line.expect("a line");
        let words: Vec<&str> = line.split_whitespace().collect();
        let [what, tasks, count, models, tag] = words[..] else {
            panic!("not a job: {line}");
        };
        let number = |word: &str| word.parse::<usize>().expect("a number");
        let (tasks, count, models) = (number(tasks), number(count), number(models));
        let claims = matches!(what, "claim_fresh" | "claim_contended");
        if !claims {
            // What is read, touched and listed is DOWNLOADED.
            runtime.block_on(run(&backend, "set_status", 64, models, models, tag));
        }
        let warm = if claims {
            format!("warm-{tag}")
        } else {
            tag.to_string()
        };
        runtime.block_on(run(
            &backend,
            what,
            tasks,
            (count / 10).max(1),
            models,
            &warm,
        ));
        say("{}");
        lines.next().expect("go").expect("a line");
        let before = cpu();
        let (seconds, won, mut taken) =
            runtime.block_on(run(&backend, what, tasks, count, models, tag));
        let cpu_seconds = cpu() - before;
        taken.sort_by(f64::total_cmp);
        let (p50, p99) = (percentile(&taken, 0.5), percentile(&taken, 0.99));
        let most = taken.last().copied().unwrap_or(0.0);
        say(&format!(
            "{{\"seconds\": {seconds}, \"done\": {count}, \"won\": {won}, \"client_cpu\": {cpu_seconds}, \
             \"p50\": {p50}, \"p99\": {p99}, \"max\": {most}}}"
        ));
    }
}
