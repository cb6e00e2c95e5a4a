#!/bin/sh
# ./restore.sh FOLDER [database]: what backup.sh made, into an empty stack that does not run;
# with `database` the spool stays as it is (a rollback).
set -eu
[ $# -ge 1 ] || { sed -n 2,3p "$0"; exit 2; }
cd "$(dirname "$0")"
docker compose up --detach --wait postgres
tables=$(docker compose exec -T postgres psql -U cxr -d cxr -Atc \
  "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
[ "$tables" = 0 ] || { echo "restore.sh: the database is not empty: see docs/OPERATIONS.md" >&2; exit 1; }
if [ "${2:-}" != database ]; then
  docker compose run --rm -T --no-deps --entrypoint tar dicom-worker \
    -C /var/lib/cxr-worker -xf - <"$1/spool.tar"
fi
docker compose exec -T postgres pg_restore -U cxr -d cxr --no-owner --single-transaction <"$1/database.dump"
echo "restored from $1; now: docker compose up --detach"
