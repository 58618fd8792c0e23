//! Waiting for several futures in one task. They are polled in the order of writing, always.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

/// The output of whichever future of [`select`] was ready first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Either<A, B> {
    /// The first one was.
    First(A),
    /// The second one was.
    Second(B),
}

/// Waits for the first of two futures and drops the other; if both are ready, the first one wins.
pub async fn select<A, B>(first: A, second: B) -> Either<A::Output, B::Output>
where
    A: Future,
    B: Future,
{
    let (mut first, mut second) = (pin!(first), pin!(second));
    poll_fn(|context| {
        if let Poll::Ready(output) = first.as_mut().poll(context) {
            return Poll::Ready(Either::First(output));
        }
        second.as_mut().poll(context).map(Either::Second)
    })
    .await
}

/// Waits for both futures.
pub async fn join<A, B>(first: A, second: B) -> (A::Output, B::Output)
where
    A: Future,
    B: Future,
{
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut first_output, mut second_output) = (None, None);
    poll_fn(|context| {
        poll_into(&mut first_output, first.as_mut(), context);
        poll_into(&mut second_output, second.as_mut(), context);
        if first_output.is_none() || second_output.is_none() {
            return Poll::Pending;
        }
        Poll::Ready(first_output.take().zip(second_output.take()).expect("both are ready"))
    })
    .await
}

fn poll_into<F: Future>(
    output: &mut Option<F::Output>,
    future: Pin<&mut F>,
    context: &mut std::task::Context<'_>,
) {
    if output.is_none()
        && let Poll::Ready(ready) = future.poll(context)
    {
        *output = Some(ready);
    }
}

/// Waits for all futures; outputs are in the order of the futures. Every wake-up polls all that are
/// not ready, so this is for a few futures; many are tasks.
pub async fn join_all<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    poll_fn(|context| {
        for (future, output) in &mut futures {
            poll_into(output, future.as_mut(), context);
        }
        if futures.iter().any(|(_, output)| output.is_none()) {
            return Poll::Pending;
        }
        Poll::Ready(futures.iter_mut().filter_map(|(_, output)| output.take()).collect())
    })
    .await
}
