"""What a web process works with, made once."""

from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request

from db.engine import Database
from model.bands import Interpreter
from model.bundle import Bundle
from worker.receive import Receiver
from worker.services import Services
from worker.settings import Settings
from worker.web.access import Access
from worker.web.oidc import Provider
from worker.web.pictures import Pictures


@dataclass(frozen=True, kw_only=True)
class Web:
    services: Services
    access: Access
    pictures: Pictures = field(default_factory=Pictures)
    provider: Provider | None = None

    @property
    def settings(self) -> Settings:
        return self.services.settings

    @property
    def database(self) -> Database:
        return self.services.database

    @property
    def bundle(self) -> Bundle:
        return self.services.bundle

    @property
    def interpreter(self) -> Interpreter:
        return self.services.interpreter

    def receiver(self) -> Receiver | None:
        """What takes uploads, where the spool is at hand."""
        spool, settings = self.services.spool, self.settings
        if not spool.temp.is_dir():
            return None
        return Receiver(
            spool=spool,
            database=self.database,
            notify=self.services.notify,
            settle_s=0,  # what is dropped at once arrives at once
            max_study_age_days=settings.max_study_age_days,
            spool_reserve_mb=settings.spool_reserve_mb,
            audit=self.services.audit,
        )

    @property
    def withholds(self) -> bool:
        """Whether results outside the intended use are kept from readers, as in the report."""
        return self.settings.outside_intended_use == "withhold"


def web_of(request: Request) -> Web:
    web: Web = request.app.state.web
    return web


WebDep = Annotated[Web, Depends(web_of)]
