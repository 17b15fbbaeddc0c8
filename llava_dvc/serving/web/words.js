// What the page says, in the languages it knows. {names} in braces are filled in.
export const WORDS = {
  en: {
    title: "How many people are there?",
    about: "This server counts the people in camera frames and videos.",
    nothingKept: "Nothing is stored.",
    correctedKept: "Only a frame that you correct is stored.",
    choose: "Choose frames or a video",
    drop: "Drop frames or a video here",
    orChoose: "Or click to choose files, or paste an image",
    frame: "The frame that was counted",
    camera: "Use the camera",
    shoot: "Count this picture",
    stop: "Close the camera",
    examples: "Or try a drawn frame:",
    example: "Drawn frame of a mall",
    empty: "No frame yet",
    counting: "Counting…",
    notCounted: "Not counted",
    range: "{noun}, 80 % interval {low} to {high}",
    person: "person",
    people: "people",
    mean: "Mean {mean}",
    interval: "80 % interval",
    ends: "{low} to {high}",
    others: "other counts",
    probability: "Probability of each count",
    likely: "Most likely",
    likelyItem: "{count} {noun}",
    wrong: "Wrong? It was",
    keep: "Keep",
    keepNote: "Keeps this frame and your number on the server.",
    kept: "Thank you. Frame and number are kept.",
    frameColumn: "Frame",
    peopleColumn: "People",
    progress: "{done} of {total} frames counted",
    progressOpen: "{done} frames counted, more to come",
    tooMany: "Only the first {most} frames are counted.",
    timeline: "{name}: people over time, from {least} to {most}",
    measured: "Model: {adapter} on {backbone}. On {frames} frames that it was not trained on, it was off by " +
      "{mae} people on average (95 % interval {low} to {high}). On other cameras it can be worse.",
    unmeasured: "Model: {adapter} on {backbone}. It is not known here how well it counts: only a published " +
      "folder has its evaluation.",
    took: "Counted in {seconds} s",
    api: "HTTP API",
    metrics: "Metrics",
    unreadable: "This file cannot be read as a picture. Save it as JPEG or PNG and try again.",
    large: "This picture is too large. At most 20 MB and 25 megapixels are possible.",
    slow: "The upload took too long. Try again, or send a smaller picture.",
    failed: "The model could not count this frame. Try again; if it stays so, tell the operator.",
    busy: "The server has too much to do. Try again in a minute.",
    refused: "The server refused this frame.",
    offline: "The server cannot be reached. Check that it runs and that you are connected.",
    full: "The server has no room for more corrections. Tell the operator.",
    video: "This browser cannot play this video. Convert it to MP4 (H.264), or use llava-dvc predict.",
    cameraRefused: "This page may not use the camera. Allow it in the browser's settings.",
    cameraMissing: "No camera was found, or another program uses it.",
    cameraInsecure: "The browser gives the camera only to pages with https, or on the server's own machine " +
      "(localhost).",
  },
  ko: {
    title: "사람이 몇 명 있나요?",
    about: "이 서버가 카메라 사진과 동영상 속의 사람을 셉니다.",
    nothingKept: "아무것도 저장하지 않습니다.",
    correctedKept: "바로잡은 사진만 저장합니다.",
    choose: "사진이나 동영상 고르기",
    drop: "사진이나 동영상을 여기에 놓으세요",
    orChoose: "눌러서 파일을 고르거나 이미지를 붙여 넣어도 됩니다",
    frame: "사람을 센 사진",
    camera: "카메라 쓰기",
    shoot: "이 장면 세기",
    stop: "카메라 닫기",
    examples: "그려 만든 예제로 해 보기:",
    example: "그려 만든 쇼핑몰 장면",
    empty: "아직 사진이 없습니다",
    counting: "세는 중…",
    notCounted: "세지 못했습니다",
    range: "80 % 구간 {low}~{high}{noun}",
    person: "명",
    people: "명",
    mean: "평균 {mean}",
    interval: "80 % 구간",
    ends: "{low}~{high}",
    others: "그 밖의 수",
    probability: "사람 수마다의 확률",
    likely: "가장 그럴듯한 수",
    likelyItem: "{count}{noun}",
    wrong: "틀렸나요? 실제로는",
    keep: "저장",
    keepNote: "이 사진과 입력한 수를 서버에 저장합니다.",
    kept: "고맙습니다. 사진과 수를 저장했습니다.",
    frameColumn: "사진",
    peopleColumn: "사람 수",
    progress: "{total}장 가운데 {done}장을 셌습니다",
    progressOpen: "{done}장을 셌고, 더 남아 있습니다",
    tooMany: "처음 {most}장만 셉니다.",
    timeline: "{name}: 시간에 따른 사람 수, {least}~{most}명",
    measured: "모델: {backbone} 위의 {adapter}. 학습에 쓰지 않은 사진 {frames}장에서 평균 {mae}명 틀렸습니다" +
      "(95 % 구간 {low}~{high}). 다른 카메라에서는 더 틀릴 수 있습니다.",
    unmeasured: "모델: {backbone} 위의 {adapter}. 얼마나 잘 세는지 여기서는 알 수 없습니다. 평가 결과는 배포용 폴더에만 있습니다.",
    took: "{seconds}초 걸렸습니다",
    api: "HTTP API",
    metrics: "운영 지표",
    unreadable: "이 파일을 사진으로 읽을 수 없습니다. JPEG나 PNG로 저장해서 다시 해 보세요.",
    large: "사진이 너무 큽니다. 20 MB, 2500만 화소까지 됩니다.",
    slow: "올리는 데 너무 오래 걸렸습니다. 다시 하거나 더 작은 사진을 보내세요.",
    failed: "모델이 이 사진을 세지 못했습니다. 다시 해도 그러면 운영자에게 알려 주세요.",
    busy: "서버가 바쁩니다. 잠시 뒤에 다시 해 보세요.",
    refused: "서버가 이 사진을 받지 않았습니다.",
    offline: "서버에 연결할 수 없습니다. 서버가 켜져 있는지, 네트워크가 이어져 있는지 확인하세요.",
    full: "서버에 더 저장할 자리가 없습니다. 운영자에게 알려 주세요.",
    video: "이 브라우저는 이 동영상을 재생하지 못합니다. MP4(H.264)로 바꾸거나 llava-dvc predict를 쓰세요.",
    cameraRefused: "이 페이지가 카메라를 쓸 수 없습니다. 브라우저 설정에서 허용하세요.",
    cameraMissing: "카메라가 없거나 다른 프로그램이 쓰고 있습니다.",
    cameraInsecure: "브라우저는 https 페이지나 서버가 도는 컴퓨터(localhost)에서만 카메라를 내줍니다.",
  },
};

// The first language of the browser that the page knows, else English.
export const language = navigator.languages.map(name => name.slice(0, 2)).find(name => name in WORDS) ?? "en";

export function say(word, values = {}) {
  return WORDS[language][word].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

// Fills every element with data-word, data-label or data-alt.
export function writeWords() {
  document.documentElement.lang = language;
  document.title = say("title");
  for (const node of document.querySelectorAll("[data-word]")) node.textContent = say(node.dataset.word);
  for (const node of document.querySelectorAll("[data-label]"))
    node.setAttribute("aria-label", say(node.dataset.label));
  for (const node of document.querySelectorAll("[data-alt]")) node.alt = say(node.dataset.alt);
}
