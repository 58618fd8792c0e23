//! Replicas on real sockets of this host.

use std::rc::Rc;
use std::time::Duration;

use ioring::sleep;
use ioring::uring::{self, Runtime};
use node::peers::Class;
use wire::ReplicaId;

use crate::support::{Replica, listen, member};

/// As many replicas on one core, talking.
async fn cluster(count: u8) -> Vec<Rc<Replica>> {
    let any = "127.0.0.1:0".parse().unwrap();
    let listeners: Vec<_> = (0..count).map(|_| listen(any)).collect();
    let addresses: Vec<String> =
        listeners.iter().map(|listener| listener.local_addr().to_string()).collect();
    let replicas = listeners.into_iter().zip(0..).map(|(listener, number)| {
        let replica = Rc::new(Replica::start(member(number, count), &addresses, listener));
        replica.chatter_for_ever(ReplicaId(number), Duration::from_micros(200));
        replica
    });
    replicas.collect()
}

#[test]
fn everybody_hears_everybody() {
    for count in [2, 3] {
        let runtime = Runtime::new(uring::Config::test_min(1)).unwrap();
        runtime.run(vec![()], move |()| async move {
            let replicas = cluster(count).await;
            let heard = |least: u64| {
                replicas.iter().zip(0..).all(|(replica, to)| {
                    let others = (0..count).filter(|from| *from != to);
                    let mut pairs = others.flat_map(|from| Class::ALL.map(|class| (from, class)));
                    pairs.all(|(from, class)| replica.heard.count(from, class) >= least)
                })
            };
            for _ in 0..5000 {
                if heard(200) {
                    break;
                }
                sleep(Duration::from_millis(2)).await;
            }
            let counts: Vec<u64> = replicas.iter().map(|replica| replica.heard.total()).collect();
            assert!(heard(200), "{count} replicas heard {counts:?}");
            for report in replicas.iter().flat_map(|replica| replica.peers.report().peers) {
                for class in report.classes {
                    assert_eq!(class.receiving.faults, 0);
                    assert!(class.sending.sends <= class.sending.messages);
                }
            }
        });
    }
}
