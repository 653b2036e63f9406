-- Put tasks into the queue, all of them in one instant.
--
-- after   fence.lua, incarnation.lua
-- ARGV    3... number, body, number, body, ...
-- answer  how many were added
-- repeat  harmless: a number that is outstanding is left alone
local num_added = 0
for i = 3, #ARGV, 2 do
  local number, body = ARGV[i], ARGV[i + 1]
  if redis.call('HEXISTS', outstanding, number) == 0 then
    local task = redis.call('XADD', tasks, '*', 'n', number, 'body', body)
    redis.call('HSET', outstanding, number, 't:' .. task)
    num_added = num_added + 1
  end
end
return num_added
