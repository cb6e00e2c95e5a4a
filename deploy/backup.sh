#!/bin/sh
# ./backup.sh FOLDER: the database, then the spool and the audit trail, while everything runs.
# In this order every row has its file; a file without a row is adopted by the listener.
set -eu
[ $# = 1 ] || { sed -n 2p "$0"; exit 2; }
cd "$(dirname "$0")"
umask 077
mkdir -p "$1"
docker compose exec -T postgres pg_dump -U cxr -d cxr --format custom >"$1/database.part"
# tar's 1: a file was erased meanwhile
docker compose run --rm -T --no-deps --entrypoint sh dicom-worker -c \
  'cd /var/lib/cxr-worker && mkdir -p audit && tar --exclude spool/tmp -cf - spool audit || [ $? = 1 ]' \
  >"$1/spool.part"
tar -tf "$1/spool.part" spool >/dev/null
mv "$1/database.part" "$1/database.dump"
mv "$1/spool.part" "$1/spool.tar"
ls -l "$1"
