"""The tokeniser of tiny-llava: byte-level BPE over our own questions, digits one by one."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llava_dvc.model.chat_template import CHAT_TEMPLATE
from pretrain.phrases import EXTRA, every_question

BOS, EOS, UNK, PAD, IMAGE = SPECIALS = ("<s>", "</s>", "<unk>", "<pad>", "<image>")
LARGEST_VOCABULARY = 960
FRAMING = (" USER: ", "\n", " ASSISTANT: ", " USER: \n ASSISTANT: ")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Returns the same tokeniser each time: it is trained on fixed text in one thread."""
    return PreTrainedTokenizerFast(
        tokenizer_object=_train(),
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE},
        model_max_length=2048,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def _train() -> Tokenizer:
    """Trains BPE on bytes, so that any text has tokens and frequent words are single tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNK))
    # Digits are split first: "31" is always "3", "1", as in LLaVA's tokeniser.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=LARGEST_VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*every_question(), *EXTRA, *FRAMING], trainer)
    return tokenizer
