//! In steady state a publish allocates nothing, and what a commit allocates is bounded. Counted, not timed.

use benches::wire_node::WireNode;

/// An allocation for each event is what an event costs most beside the kernel, and it creeps back in unseen. A commit
/// may make the handle by which disk and cache share it, and grow the index; nothing may be made for each publish.
#[test]
fn a_publish_allocates_nothing_in_steady_state() {
    for (clients, numbered) in [(1, false), (64, false), (64, true)] {
        let open = if numbered { WireNode::open_numbered } else { WireNode::open };
        let mut node = open(clients, 1, 100);
        // Long enough for segments to be recycled, and for every table to have its size.
        let publishes = 64_000;
        for _ in 0..publishes / clients {
            node.round();
        }
        let rounds = 16_000 / clients;
        let calls =
            allocation_counter::measure(|| (0..rounds).for_each(|_| node.round())).count_total;
        let each = calls as f64 / rounds as f64;
        println!("{clients} clients, numbered {numbered}: {each:.2} allocations a commit");
        assert!(each < 4.0, "{each} allocations a commit of {clients} publishes");
    }
}
