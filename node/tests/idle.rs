//! What a node does when nobody asks anything of it: it merges what reads would otherwise have to
//! ask one by one, and then sleeps.

mod support;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use ioring::sim::config::Config as SimConfig;
use ioring::sim::world::{Status, World};
use ioring::{Outbox, Queue, Stream};
use node::control::Question;
use node::metrics::Counter;
use node::server;
use node::status::CoreReport;
use support::{PORT, format, parts, request};

async fn report(ask: &Outbox<Question>) -> CoreReport {
    let (sender, mut receiver) = tokio::sync::oneshot::channel();
    assert!(ask.try_send(Question::Report(sender)).is_ok());
    loop {
        if let Ok(report) = receiver.try_recv() {
            return report;
        }
        ioring::sleep(Duration::from_millis(1)).await;
    }
}

/// Sorted runs of all trees of the shard that has most, and pulses so far.
async fn runs_and_pulses(ask: &Outbox<Question>) -> (u64, u64) {
    let report = report(ask).await;
    let runs = report.shards.iter().map(|shard| shard.compaction.runs);
    (runs.max().expect("the core has shards"), report.metrics.get(Counter::Pulses))
}

/// Sets keys, the last of them a while after the one before it.
async fn set(stream: &Stream, keys: std::ops::Range<u32>, pause: Duration) {
    let value = "1".repeat(600);
    for key in keys {
        ioring::sleep(pause).await;
        let key = format!("key{}", key * 7919 % 10_007);
        let (sent, _) = stream.send(request(&["SET", &key, &value])).await;
        sent.expect("the node takes requests");
        let reply = ioring::timeout(Duration::from_secs(20), stream.recv()).await;
        assert_eq!(&reply.expect("in time").expect("the node answers")[..], b"+OK\r\n");
    }
}

async fn write_and_be_silent(address: SocketAddr, ask: Outbox<Question>) {
    let stream = loop {
        match Stream::connect(address).await {
            Ok(stream) => break stream,
            Err(_) => ioring::sleep(Duration::from_millis(5)).await,
        }
    };
    let mut key = 0;
    let runs = loop {
        set(&stream, key..key + 40, Duration::ZERO).await;
        key += 40;
        let (runs, _) = runs_and_pulses(&ask).await;
        if key > 1000 && runs >= 7 {
            break runs;
        }
        assert!(key < 5000, "{runs} runs");
    };
    // In pauses shorter than a second nothing is merged that need not be.
    ioring::sleep(Duration::from_millis(500)).await;
    let (before, pulses) = runs_and_pulses(&ask).await;
    assert!(before + 1 >= runs, "{runs} runs became {before}");
    ioring::sleep(Duration::from_millis(700)).await;
    let (_, first) = runs_and_pulses(&ask).await;
    assert!(first > pulses, "after a second there are pulses");
    ioring::sleep(Duration::from_secs(30)).await;
    let (after, tidy) = runs_and_pulses(&ask).await;
    assert!(after <= 4, "{before} runs became {after}");
    ioring::sleep(Duration::from_secs(600)).await;
    assert_eq!(runs_and_pulses(&ask).await, (after, tidy), "and then it sleeps");
    assert!(ask.try_send(Question::Stop).is_ok());
    std::future::pending::<()>().await;
}

#[test]
fn an_idle_node_merges_its_runs_and_then_sleeps() {
    let mut world = World::new(1, SimConfig::default());
    let server = world.add_node("server");
    world.run(server, format).expect("formatting ends");
    let address = SocketAddr::new(world.address(server), PORT);
    let (parts, ask) = parts(address, 1);
    let ask = Rc::new(Cell::new(Some(ask)));
    let results = world.start(server, parts, move |part| {
        let ask = ask.take().expect("there is one core");
        async move {
            let load = write_and_be_silent(address, ask);
            ioring::spawn(Queue::Foreground, "load", load).detach();
            server::serve(part).await
        }
    });
    assert!(world.run_until(|world| *world.status(server) != Status::Running));
    assert_eq!(*world.status(server), Status::Finished);
    for result in results.take().expect("all cores returned") {
        result.expect("the node starts and stops");
    }
}
