-- outbox.doctor_backend: which server process answers. Where two connections have the same, a pooler stands between.
SELECT /* outbox.doctor_backend */ pg_backend_pid() AS pid
