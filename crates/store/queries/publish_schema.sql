-- outbox.publish_schema: a kind's JSON Schema for its payloads; says whether it was another before.
SELECT /* outbox.publish_schema */ outbox.publish_schema($1, $2::text::json, $3) AS result
