"""Turns the replies to one transaction into verdicts on its recipients.

The session matches replies to commands; this module derives the state of each recipient: accepted, refused, to be sent
again in another transaction, delivered, or in doubt when the session breaks. ``zsmtp.delivery.outcome`` makes every
verdict, and the ledger gets each once.
"""

from __future__ import annotations

from zsmtp.delivery.ledger import Ledger
from zsmtp.delivery.outcome import Peer, Verdict, asks_for_another_transaction, from_loss, from_reply, in_doubt
from zsmtp.proto.capabilities import Capabilities
from zsmtp.proto.phase import CONTENT, DATA, FINAL_PHASES, MAIL, RCPT, RSET, SUCCESS, TRANSIENT, ReplyMeaning
from zsmtp.proto.plan import Transaction
from zsmtp.proto.reply import Reply
from zsmtp.proto.session import Lost, StepAnswered
from zsmtp.proto.transcript import exchange, join, unfinished

_CUT_SHORT = b"(content, not sent to its end)"  # shown instead of the final dot


class TransactionBook:
    """The state of ``transaction``, whose recipient ``i`` is number ``batch[i]`` in ``ledger``.

    ``pipelined``: it started before the previous one was answered. Recipients without a verdict when all replies are in
    are sent again. ``content_answered``, ``taken`` and ``put_off`` describe the replies to the content; ``cut_short``:
    it was refused before its end; ``out_of_step``: the peer confused pipelined commands. ``replies`` counts those
    received.
    """

    def __init__(
        self,
        transaction: Transaction,
        batch: list[int],
        ledger: Ledger,
        peer: Peer,
        capabilities: Capabilities,
        *,
        pipelined: bool = False,
    ) -> None:
        self._transaction = transaction
        self._batch = batch
        self._ledger = ledger
        self._peer = peer
        self._enhanced = capabilities.enhanced_status_codes
        self._passed_on = capabilities.dsn
        self._common: list[str] = []  # exchanges that concern every recipient
        self._rcpt: dict[int, str] = {}
        self._accepted: list[int] = []
        self._declined: set[int] = set()
        self._mail: ReplyMeaning | None = None
        self.pipelined = pipelined
        self.grouped = not transaction.steps[1].gated  # RCPT behind MAIL
        self.replies = 0
        self.taken = False
        self.put_off = False
        self.content_answered = False
        self.cut_short = False
        self.out_of_step = False

    def answered(self, answer: StepAnswered) -> None:
        """Account for one reply."""
        phase = answer.step.phase
        if phase is RSET:
            return
        self.replies += 1
        self.content_answered = self.content_answered or phase in FINAL_PHASES
        self.cut_short = self.cut_short or answer.early
        if answer.result is not SUCCESS and (self.pipelined or self.grouped) and self._concerns_order(answer):
            self.out_of_step = True  # it gives no verdict
            if phase is RCPT:
                self._declined.add(answer.step.recipient)
        elif phase is MAIL:
            self._sender(answer)
        elif self._mail is not SUCCESS:
            return  # all recipients have MAIL's reply; the ones behind it mean nothing
        elif phase is RCPT:
            self._recipient(answer)
        elif phase is DATA:
            self._data(answer)
        elif phase in FINAL_PHASES:
            self._final(answer)

    def lost(self, lost: Lost) -> None:
        """Handle the end of the session: settle recipients in doubt. The others stay open in the ledger."""
        if self._transaction not in lost.in_doubt:
            return
        for index, number in enumerate(self._batch):
            if index not in self._declined:
                self._ledger.settle_all([number], in_doubt(self.loss_verdict(lost, index)))

    def loss_verdict(self, lost: Lost, index: int | None = None) -> Verdict:
        """The verdict on recipients that the end of the session left undecided."""
        return from_loss(lost.error, self._dialogue(index) + unfinished(lost), self._peer)

    def left_waiting(self, lost: Lost) -> bool:
        """Whether a timeout indicates that the peer lost commands: all of them, or all but the first.

        Some servers read one command from a segment and discard the rest.
        """
        if self.pipelined and not self.replies:
            return True
        return self.grouped and self.replies == 1 and lost.step is not None and lost.step.phase in (RCPT, DATA)

    def _concerns_order(self, answer: StepAnswered) -> bool:
        """Whether a refusal means that the command was out of order, or came too early.

        503 does, except after a refused MAIL, or after all recipients were refused, when any command gets it. Other
        servers refuse pipelining in their text; a refusal of the content may have any reason. Content that waited for
        its turn did not run ahead.
        """
        phase, reply = answer.step.phase, answer.reply
        if (phase in FINAL_PHASES and answer.step.gated) or (phase is not MAIL and self._mail not in (None, SUCCESS)):
            return False
        if reply.code == 503:
            return phase in (MAIL, RCPT) or bool(self._accepted)
        return phase not in FINAL_PHASES and b"pipelin" in b" ".join(reply.lines).lower()

    def _sender(self, answer: StepAnswered) -> None:
        self._common.append(exchange(answer.step.wire, answer.reply))
        self._mail = answer.result
        if answer.result is not SUCCESS and answer.reply.code != 421:
            self._ledger.settle_all(self._batch, self._verdict(answer, None))

    def _recipient(self, answer: StepAnswered) -> None:
        index = answer.step.recipient
        self._rcpt[index] = exchange(answer.step.wire, answer.reply)
        if answer.result is SUCCESS:
            self._accepted.append(index)
            return
        self._declined.add(index)
        if answer.reply.code == 421:
            return  # a reply that ends the session: undecided
        if not asks_for_another_transaction(answer.reply, accepted=len(self._accepted)):
            self._ledger.settle(self._batch[index], self._verdict(answer, index))

    def _data(self, answer: StepAnswered) -> None:
        self._common.append(exchange(answer.step.wire, answer.reply))
        if answer.result is not SUCCESS and answer.reply.code != 421:
            self._settle_accepted(answer)

    def _final(self, answer: StepAnswered) -> None:
        if not self._accepted:
            return  # the reply to a lone dot, or to content without recipients
        self.taken = self.taken or answer.result is SUCCESS
        self.put_off = self.put_off or answer.result is TRANSIENT
        if answer.recipient >= 0:
            self._ledger.settle(self._batch[answer.recipient], self._verdict(answer, answer.recipient, answer.reply))
        else:
            line = _CUT_SHORT if answer.early and answer.step.phase is CONTENT else answer.step.wire
            self._common.append(exchange(line, answer.reply))
            self._settle_accepted(answer)

    def _settle_accepted(self, answer: StepAnswered) -> None:
        for index in self._accepted:
            self._ledger.settle(self._batch[index], self._verdict(answer, index))

    def _verdict(self, answer: StepAnswered, index: int | None, own_reply: Reply | None = None) -> Verdict:
        text = self._dialogue(index)
        if own_reply is not None:
            text = join([text, exchange(answer.step.wire, own_reply)])
        passed_on = self._passed_on and answer.step.phase in FINAL_PHASES and answer.result is SUCCESS
        return from_reply(
            answer.step.phase,
            answer.reply,
            answer.result,
            text,
            enhanced=self._enhanced,
            peer=self._peer,
            passed_on=passed_on,
            early=answer.early,
        )

    def _dialogue(self, index: int | None) -> str:
        """The exchanges of MAIL, of this recipient's RCPT, and of the following commands, so far."""
        own = self._rcpt.get(index, "") if index is not None else ""
        return join([*self._common[:1], own, *self._common[1:]])
