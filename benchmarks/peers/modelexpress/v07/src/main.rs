//! Release 0.7.0: a claim has a lease and an id, a new UUID each time, as its own server does it.

#[path = "../../drive.rs"]
mod drive;

use modelexpress_common::models::ModelProvider;
use modelexpress_server::registry::backend::redis::RedisRegistryBackend;
use modelexpress_server::registry::backend::{ClaimOutcome, RegistryBackend};
use std::time::Duration;

const LEASE: Duration = Duration::from_secs(30);

async fn claim(backend: &RedisRegistryBackend, model: &str) -> bool {
    let id = uuid::Uuid::new_v4().to_string();
    let outcome = backend.try_claim_for_download(model, ModelProvider::HuggingFace, &id, LEASE);
    outcome.await.expect("a claim") == ClaimOutcome::Claimed
}

fn main() {
    drive::main();
}
