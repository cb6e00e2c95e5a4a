#!/bin/sh
# ./backup.sh FOLDER: the database, then the spool, while everything runs.
# In this order every row has its file; a file without a row is adopted by the listener.
set -eu
[ $# = 1 ] || { sed -n 2p "$0"; exit 2; }
cd "$(dirname "$0")"
umask 077
mkdir -p "$1"
docker compose exec -T postgres pg_dump -U cxr -d cxr --format custom >"$1/database.part"
# 1: a file was erased meanwhile
docker compose run --rm -T --no-deps --entrypoint tar dicom-worker \
  -C /var/lib/cxr-worker --exclude spool/tmp -cf - spool >"$1/spool.part" || [ $? = 1 ]
mv "$1/database.part" "$1/database.dump"
mv "$1/spool.part" "$1/spool.tar"
ls -l "$1"
