-- Forget numbers and whatever Redis holds for them, be it a task or a result.
--
-- after   fence.lua, incarnation.lua
-- ARGV    3... numbers that are terminal or logged on the learner's disk
-- answer  how many were outstanding
-- repeat  harmless
local num_dropped = 0
for i = 3, #ARGV do
  local held = redis.call('HGET', outstanding, ARGV[i])
  if held then
    remove(held)
    redis.call('HDEL', outstanding, ARGV[i])
    num_dropped = num_dropped + 1
  end
end
return num_dropped
