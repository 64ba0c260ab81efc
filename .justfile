# One-line recipes; logic lives in tests or in protem.
check:
    cargo fmt --check && cargo clippy --workspace --all-targets -- -D warnings && cargo test --workspace
sim seed="":
    PROTEM_SIM_SEED={{seed}} cargo test --test it simulation -- --nocapture
gen:
    PROTEM_GEN=1 cargo test --test it generated
bench:
    cargo build --release && target/release/protem bench issue
