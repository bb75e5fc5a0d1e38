//! How much memory topics may take.

use codec::ids::Partition;

use super::harness::{Bench, small_options};
use crate::batch::NoAppend;

/// Whoever may publish may begin topics, and their names stay in memory: without a bound of bytes that is all the memory
/// there is. What is there must go on.
#[test]
fn names_of_topics_have_a_bound() {
    let mut options = small_options();
    options.log.topics_bytes_max = 256 << 10;
    let mut bench = Bench::new(7, options);
    let mut begun = 0;
    let refused = loop {
        let name = format!("{begun}/{}", "x".repeat(900));
        match bench.log.create_topic(&name.into()) {
            Ok(_) => begun += 1,
            Err(NoAppend::NoRoom) => bench.settle(),
            Err(refused) => break refused,
        }
        assert!(begun < 1_000, "names of 900 bytes take more than that");
    };
    assert_eq!(refused, NoAppend::TooManyTopics);
    assert!(begun > 100, "{begun} topics are too few for the room");
    let first = format!("0/{}", "x".repeat(900));
    assert!(bench.log.create_topic(&first.as_str().into()).is_ok(), "it is there");
    bench.settle();
    while bench.append_this(&first, Partition(1), 1, vec![7; 100]).is_err() {
        bench.settle();
    }
    bench.settle();
}
