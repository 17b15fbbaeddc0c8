# ruff: noqa
# fmt: off
# python plain_use.py FOLDER BASE QUESTION FRAME...: uses a published folder without llava-dvc.
import sys
import torch
import transformers as hf
from peft import PeftModel
from PIL import Image
folder, base, question, *frames = sys.argv[1:]
processor, asked = hf.AutoProcessor.from_pretrained(folder), [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
processor.image_processor = hf.AutoImageProcessor.from_pretrained(folder, backend="pil")  # torchvision's differs
four_bit = hf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32, llm_int8_skip_modules=["model.vision_tower", "model.multi_modal_projector", "lm_head"])
model = PeftModel.from_pretrained(hf.LlavaForConditionalGeneration.from_pretrained(base, dtype=torch.float32, quantization_config=four_bit, device_map="cpu"), folder)
for layer in model.modules(): layer.support_avx512bf16_for_cpu = False  # else such CPUs compute in bfloat16
for frame in frames:
    inputs = processor(images=Image.open(frame), text=processor.apply_chat_template(asked, add_generation_prompt=True), add_special_tokens=False, return_tensors="pt")
    ids = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    print(repr(processor.decode(ids[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)))
