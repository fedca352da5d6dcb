//! The example of the crate does what it says.

use hapax_tests::shop::Shop;

#[path = "../../examples/place_order.rs"]
#[allow(dead_code, reason = "its main reads the environment")]
mod place_order;

#[tokio::test]
async fn the_example_places_an_order_and_its_mail() {
    let shop = Shop::open().await.unwrap();
    let id = place_order::run(&shop.url()).await.unwrap();
    let sql = "SELECT m.subject = 'Your order ' || o.id AND m.recipients = ARRAY[o.email] AND m.attachments IS NOT NULL
               FROM outbox.message m, public.orders o WHERE m.id = $1";
    let row = shop.superuser().await.unwrap().query_one(sql, &[&id]).await.unwrap();
    assert!(row.get::<_, bool>(0));
}
