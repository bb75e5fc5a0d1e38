//! The log against a model, on the simulated disk and on real files.

mod behind;
mod checkpoints;
mod count;
mod crash;
mod damage;
mod deletion;
mod files;
mod harness;
mod indexes;
mod inspect;
mod prepared;
mod released;
mod topic_retention;
mod topics_bytes;
mod wanted;
