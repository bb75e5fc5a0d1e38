//! Every public item by its full path, and what a program may rely on of each. It must compile.

use std::error::Error;
use std::fmt::{Debug, Display};
use std::future::Future;
use std::time::Duration;

use ringmesh_client::blocking;

fn error<T: Error + Send + Sync + 'static>() {}
fn shared<T: Clone + Debug + Send + Sync + 'static>() {}
fn moved<T: Debug + Send + 'static>() {}
fn answer<F, T, E>()
where
    F: Future<Output = Result<T, E>> + Debug + Send + Unpin + 'static,
{
}

/// A type that stops being `Send`, or an error that stops being one, breaks programs that only pass it on.
#[test]
fn the_types_can_be_passed_on() {
    error::<ringmesh_client::ConnectError>();
    error::<ringmesh_client::PublishError>();
    error::<ringmesh_client::SubscribeError>();
    error::<ringmesh_client::ServerRefusal>();
    error::<ringmesh_client::BuildError>();
    error::<ringmesh_client::DecodeError>();
    shared::<ringmesh_client::Client>();
    shared::<blocking::Client>();
    shared::<ringmesh_client::ClientOptions>();
    shared::<ringmesh_client::SubscribeOptions>();
    shared::<ringmesh_client::Event>();
    shared::<ringmesh_client::Ack>();
    shared::<ringmesh_client::BatchAck>();
    shared::<ringmesh_client::AckLevel>();
    shared::<ringmesh_client::Mode>();
    shared::<ringmesh_client::Start>();
    shared::<ringmesh_client::Verdict>();
    shared::<ringmesh_client::Welcome>();
    shared::<ringmesh_client::Code>();
    shared::<ringmesh_client::Who>();
    shared::<ringmesh_client::Partition>();
    shared::<ringmesh_client::Offset>();
    shared::<ringmesh_client::Timestamp>();
    shared::<ringmesh_client::DataKind>();
    shared::<ringmesh_client::Key<'static>>();
    shared::<ringmesh_client::Value<'static>>();
    shared::<ringmesh_client::ReceivedEvent<'static>>();
    shared::<ringmesh_client::batch::BatchBuilder>();
    shared::<ringmesh_client::batch::TopicId>();
    moved::<ringmesh_client::Delivery>();
    moved::<ringmesh_client::Received>();
    moved::<ringmesh_client::Subscription>();
    moved::<blocking::Subscription>();
    moved::<blocking::PublishHandle>();
    moved::<blocking::BatchHandle>();
    answer::<ringmesh_client::PublishHandle, ringmesh_client::Ack, ringmesh_client::PublishError>();
    answer::<ringmesh_client::BatchHandle, ringmesh_client::BatchAck, ringmesh_client::PublishError>(
    );
}

/// The same program with and without a runtime: a name that only one of the two has is a surprise.
#[test]
fn both_clients_have_the_same_calls() {
    use ringmesh_client::{Client, ClientOptions, Event, SubscribeOptions, Subscription};

    async fn _with(options: ClientOptions, wish: SubscribeOptions) -> Result<(), Box<dyn Error>> {
        let client = Client::connect(options).await?;
        let _ = client.welcome().partitions;
        let _ = client.publish("t", &Event::text("x")).await?.await?;
        let _ = client.publish_batch("t", Vec::new()).await?.await?;
        client.flush().await?;
        let mut subscription: Subscription = client.subscribe(wish).await?;
        let _ = subscription.next().await?;
        let _ = subscription.receive().await?;
        let _ = subscription.try_receive()?;
        subscription.set_credit(1);
        subscription.unsubscribe().await?;
        let end = client.subscribe(SubscribeOptions::new("#")).await?;
        end.end().await?;
        client.close(Duration::ZERO).await;
        Ok(())
    }

    fn _without(options: ClientOptions, wish: SubscribeOptions) -> Result<(), Box<dyn Error>> {
        let client = blocking::Client::connect(options)?;
        let _ = client.welcome().partitions;
        let _ = client.publish("t", &Event::text("x"))?.wait()?;
        let _ = client.publish_batch("t", Vec::new())?.wait()?;
        client.flush()?;
        let mut subscription: blocking::Subscription = client.subscribe(wish)?;
        let _ = subscription.next(Duration::ZERO)?;
        let _ = subscription.receive(Duration::ZERO)?;
        let _ = subscription.try_receive()?;
        subscription.set_credit(1);
        subscription.unsubscribe()?;
        let end = client.subscribe(SubscribeOptions::new("#"))?;
        end.end()?;
        client.close(Duration::ZERO);
        Ok(())
    }
}

/// A cause that is neither in the text nor behind `source` is lost; one that is in both is printed twice.
#[test]
fn the_cause_of_an_error_is_told_once() {
    let client = ringmesh_client::blocking::Client::connect(ringmesh_client::ClientOptions::new(
        "127.0.0.1:1",
    ));
    let unreachable: Box<dyn Error> = client.expect_err("nobody listens there").into();
    let cause = unreachable.source().expect("the machine says why");
    assert_eq!(unreachable.to_string(), "cannot reach 127.0.0.1:1");
    assert!(!unreachable.to_string().contains(&cause.to_string()), "{cause}");
    let refused =
        ringmesh_client::PublishError::Batch(ringmesh_client::DecodeError::HeaderChecksum);
    let (text, cause): (&dyn Display, _) = (&refused, refused.source().map(ToString::to_string));
    assert_eq!(text.to_string(), "the bytes are not a batch");
    assert_eq!(cause, Some(ringmesh_client::DecodeError::HeaderChecksum.to_string()));
}
