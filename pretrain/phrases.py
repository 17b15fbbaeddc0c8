"""The questions of pretraining: about whole frames and parts of them, in two languages."""

from dataclasses import dataclass

WHOLE = (
    "How many people are in this image? Answer with a single number.",
    "How many people are in this image?",
    "How many people are there?",
    "How many people are visible in this frame? Answer with a single number.",
    "How many people can you see in this picture? Reply with one number.",
    "Count the people in this image. Answer with a single number.",
    "Count the people.",
    "Count every person in the picture and give only the number.",
    "What is the number of people in this image?",
    "How many persons does this CCTV frame show? Answer with a number only.",
    "How many pedestrians are in the scene? Answer with a single number.",
    "How many shoppers are in this frame of a mall camera?",
    "Give the head count for this surveillance image as a number.",
    "How crowded is it? Answer with the number of people.",
    "이 이미지에는 사람이 몇 명 있습니까? 숫자 하나로 답하세요.",
    "이 이미지에 사람이 몇 명 있나요?",
    "이 사진에 있는 사람은 모두 몇 명입니까? 숫자만 답하세요.",
    "사람이 몇 명 보입니까?",
    "화면에 보이는 사람 수를 세어 숫자로만 답하세요.",
    "이 CCTV 프레임에 몇 명이 있나요? 숫자로만 답해 주세요.",
    "사진 속 사람 수를 세어 주세요.",
    "이 장면에 있는 사람의 수는 몇입니까? 숫자 하나로 답하세요.",
    "쇼핑몰 카메라 화면에 사람이 몇 명입니까?",
    "매장에 있는 사람을 세어 주세요. 숫자 하나만 답하세요.",
)


@dataclass(frozen=True)
class Region:
    """A part of the image, in shares of its width and height, and its questions."""

    left: float
    top: float
    right: float
    bottom: float
    questions: tuple[str, ...]


def _questions(english: str, korean: str) -> tuple[str, ...]:
    return (
        f"How many people are in {english} of the image? Answer with a single number.",
        f"Count the people in {english}.",
        f"이미지의 {korean}에는 사람이 몇 명 있습니까? 숫자 하나로 답하세요.",
    )


EVERYWHERE = Region(0.0, 0.0, 1.0, 1.0, WHOLE)

PARTS = (
    Region(0.0, 0.0, 0.5, 1.0, _questions("the left half", "왼쪽 절반")),
    Region(0.5, 0.0, 1.0, 1.0, _questions("the right half", "오른쪽 절반")),
    Region(0.0, 0.0, 1.0, 0.5, _questions("the upper half", "위쪽 절반")),
    Region(0.0, 0.5, 1.0, 1.0, _questions("the lower half", "아래쪽 절반")),
    Region(0.25, 0.25, 0.75, 0.75, _questions("the middle", "가운데")),
)

# Only the tokeniser is trained on these words of related uses, to give them few tokens.
EXTRA = (
    "A photo of a shopping mall, a street, a station platform, a shop and a crowd of customers.",
    "Please answer briefly. There are no people. There is one person. children, visitors, queue",
    "Is it busy? yes, no. in front of the store, at the entrance, on the escalator, background",
    "방문객 손님 고객 행인 인원 매장 입구 거리 역 승강장 사람들 "
    "몇 명인지 알려 주세요. 없습니다. 있습니다.",
    "이 영상 프레임 카메라 사진 화면 장면에서 전체 인원수를 정확하게 세고 답변은 숫자로 하세요.",
)


def every_question() -> tuple[str, ...]:
    """All questions of all regions, whole frames first."""
    return tuple(q for region in (EVERYWHERE, *PARTS) for q in region.questions)
