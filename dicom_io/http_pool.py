"""One connection to one HTTP server that is sent something: STOW-RS and webhooks alike."""

import ssl

import urllib3

from dicom_io.association import Timeouts


def http_pool(context: ssl.SSLContext, timeouts: Timeouts) -> urllib3.PoolManager:
    """Bounded in time; without proxies, redirects or retries: the outbox tries again."""
    return urllib3.PoolManager(
        num_pools=1,
        maxsize=1,
        ssl_context=context,
        retries=urllib3.Retry(total=False, redirect=False),
        timeout=urllib3.Timeout(connect=timeouts.connection_s, read=timeouts.dimse_s),
    )
