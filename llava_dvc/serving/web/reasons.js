import {language} from "./words.js";

// Why a camera is not live, in Korean. The command and libav say it in English, and in messages too.
const KOREAN = [
  ["the stream ended", "카메라가 영상 전송을 끝냈습니다"],
  ["End of file", "카메라가 영상 전송을 끝냈습니다"],
  ["the connection was lost", "카메라에 연결되지 않거나 연결이 끊어졌습니다"],
  [/^no picture for ([\d.]+) s$/, "$1초 동안 영상이 오지 않았습니다"],
  ["it sends no video that libav decodes; choose H.264, H.265 or MJPEG",
    "읽을 수 없는 영상 형식입니다. 카메라에서 H.264, H.265, MJPEG 가운데 하나를 고르세요"],
  [/^its picture (.*)$/, "카메라 화면을 쓸 수 없습니다($1)"],
  ["Connection refused", "카메라가 연결을 거부했습니다"],
  ["Connection reset by peer", "카메라가 연결을 끊었습니다"],
  ["Broken pipe", "카메라가 연결을 끊었습니다"],
  ["Connection timed out", "카메라가 제때 응답하지 않았습니다"],
  ["No route to host", "카메라까지 네트워크가 이어져 있지 않습니다"],
  ["Network is unreachable", "네트워크에 연결할 수 없습니다"],
  ["Server returned 401 Unauthorized (authorization failed)", "사용자 이름이나 비밀번호가 맞지 않습니다"],
  ["Server returned 403 Forbidden (access denied)", "이 계정에는 영상을 볼 권한이 없습니다"],
  ["Server returned 404 Not Found", "이 주소에는 영상이 없습니다"],
  [/^Server returned 4.*$/, "카메라가 요청을 받아들이지 않았습니다"],
  [/^Server returned 5.*$/, "카메라 서버에 오류가 났습니다"],
  ["Invalid data found when processing input", "받은 데이터를 영상으로 읽을 수 없습니다"],
  ["No such file or directory", "장치나 파일이 없습니다"],
  ["No such device", "장치가 없습니다"],
  ["Device or resource busy", "다른 프로그램이 장치를 쓰고 있습니다"],
  ["Permission denied", "장치를 열 권한이 없습니다"],
];

// The reason in the language of the page; a rare one of libav stays in English.
export function sayReason(reason) {
  if (language !== "ko") return reason;
  for (const [english, korean] of KOREAN) {
    if (english === reason) return korean;
    if (english instanceof RegExp && english.test(reason)) return reason.replace(english, korean);
  }
  return reason;
}
