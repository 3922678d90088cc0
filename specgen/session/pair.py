"""A loaded pair: the target, its tokenizer and its drafter."""

from dataclasses import dataclass, field, replace

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.checkpoint.provenance import loaded_model
from specgen.checkpoint.tokenizer import Tokenizer
from specgen.checkpoint.vocabulary import SharedVocabulary
from specgen.core.events import LoadedModel
from specgen.core.types import LOOKUP, EngineOptions
from specgen.engine.decode import Scheduler
from specgen.engine.drafters.answer_index import AnswerIndex
from specgen.engine.drafters.head import HeadDrafter
from specgen.engine.drafters.hybrid import HybridDrafter
from specgen.engine.drafters.interface import Drafter, NoDrafter
from specgen.engine.drafters.lookup import LookupDrafter
from specgen.engine.drafters.model import ModelDrafter
from specgen.engine.drafters.translation import Translation
from specgen.nn.device import Placement
from specgen.nn.heads.reader import HeadReader
from specgen.nn.interface import Runner
from specgen.session.head_watch import HeadWatch

# Context length in tokens of a model whose config states none, such as a recurrent one.
UNLIMITED = 1 << 20


@dataclass(frozen=True, slots=True)
class Pair:
    """A target and its drafter, loaded with `options`.

    `context_length` is in tokens, prompt and answer together. `draft` is the draft model, None for other drafters;
    the first `shared_vocab` token ids mean the same to both models. `head` is a trained head in place of a draft model.
    `translation` is for a draft of another vocabulary. `earlier` has logged answers, for lookup.
    """

    target: Runner
    checkpoint: Checkpoint
    tokenizer: Tokenizer
    drafter: Drafter
    drafter_name: str
    draft_checkpoint: Checkpoint | None
    placement: Placement
    context_length: int
    draft: Runner | None = None
    draft_placement: Placement | None = None
    shared_vocab: int = 0
    translation: Translation | None = None
    head: HeadReader | None = None
    watch: HeadWatch | None = None
    options: EngineOptions = field(default_factory=EngineOptions)
    earlier: AnswerIndex = field(default_factory=AnswerIndex)

    scheduler: Scheduler = field(init=False)
    """Runs the answers of this pair; answers that are open at once may share rounds."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "scheduler", Scheduler(self.target))

    @property
    def loaded_target(self) -> LoadedModel:
        return loaded_model(self.checkpoint)

    @property
    def loaded_draft(self) -> LoadedModel | None:
        return loaded_model(self.draft_checkpoint) if self.draft_checkpoint else None

    def with_model(
        self, checkpoint: Checkpoint, model: Runner, placement: Placement, vocabulary: SharedVocabulary
    ) -> "Pair":
        """This pair with `model` as its draft, helped by lookup where the options say so."""
        shared = min(vocabulary.leading, self.target.vocab_size)
        tokens = vocabulary.translated
        translation = Translation(tokens, self.target.vocab_size) if tokens else None
        drafter = ModelDrafter(model, shared, model.context_length or UNLIMITED, translation)
        drafting = self._drafting(checkpoint, drafter, placement)
        return replace(drafting, draft=model, shared_vocab=shared, translation=translation)

    def with_head(self, checkpoint: Checkpoint, head: HeadReader, placement: Placement) -> "Pair":
        """This pair with a head that reads its target, helped by lookup where the options say so."""
        watch = HeadWatch(checkpoint.ref.name)
        return replace(self._drafting(checkpoint, HeadDrafter(head), placement), head=head, watch=watch)

    def _drafting(self, checkpoint: Checkpoint, drafter: ModelDrafter | HeadDrafter, placement: Placement) -> "Pair":
        return replace(
            self,
            drafter=HybridDrafter(LookupDrafter(self.earlier), drafter) if self.options.lookup else drafter,
            drafter_name="hybrid" if self.options.lookup else "model",
            draft_checkpoint=checkpoint,
            draft_placement=placement,
        )

    def without_model(self, drafter_name: str) -> "Pair":
        """This pair without a draft model: `drafter_name` is `lookup` or `none`."""
        if self.head is not None:
            self.target.tap((), None)
        return replace(
            self,
            drafter=LookupDrafter(self.earlier) if drafter_name == LOOKUP else NoDrafter(),
            drafter_name=drafter_name,
            draft_checkpoint=None,
            draft=None,
            draft_placement=None,
            shared_vocab=0,
            translation=None,
            head=None,
            watch=None,
        )
