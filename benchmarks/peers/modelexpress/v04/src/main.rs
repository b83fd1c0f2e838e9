//! Release 0.4.0: a claim has neither a lease nor an id.

#[path = "../../drive.rs"]
mod drive;

use modelexpress_common::models::ModelProvider;
use modelexpress_server::registry::backend::redis::RedisRegistryBackend;
use modelexpress_server::registry::backend::{ClaimOutcome, RegistryBackend};

async fn claim(backend: &RedisRegistryBackend, model: &str) -> bool {
    let outcome = backend.try_claim_for_download(model, ModelProvider::HuggingFace);
    outcome.await.expect("a claim") == ClaimOutcome::Claimed
}

fn main() {
    drive::main();
}
