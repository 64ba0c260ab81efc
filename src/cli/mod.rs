//! What a person types.

pub mod args;
pub mod args_operate;
pub mod args_work;
pub mod ask;
pub mod child;
pub mod client;
pub mod credential_file;
pub mod dev_key;
pub mod enter;
pub mod exit;
pub mod find;
pub mod holder;
pub mod orders;
pub mod output;
pub mod run;
pub mod show;
pub mod task_id;
pub mod token;
